"""Checks of the pickle inside a .pt file before torch's safe loader runs it.

The safe loader runs no code of the file's. But it calls those functions of torch's that it allows, with the file's
arguments, and a small pickle can ask for much memory or time. A `state_dict` needs few instructions and few names, and
only they are allowed here.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import Any

from unveil.core.files import quoted

INSTRUCTIONS = 500_000
"""Most instructions of a pickle; a tensor takes about 40."""

_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
    *(f"torch {kind}Storage" for kind in _STORAGES),
}
"""Names that a pickle of plain tensors imports: `module name`."""

_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"}
_PUT, _GET = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
ALLOWED = {
    *_TUPLES,
    *_PUT,
    *_GET,
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
}
"""Instructions that a pickle of plain tensors has."""


def check_pickle(content: bytes) -> None:
    """Raise a `ValueError` unless a pickle has only the instructions and names of tensors in mappings."""
    is_tuple = False  # whether the last value made is a tuple
    tuples: set[int] = set()  # places of the memo that hold a tuple
    for number, (name, argument) in enumerate(_instructions(content)):
        if number >= INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {INSTRUCTIONS:,} instructions; split the file")
        if name not in ALLOWED or (name == "PROTO" and number > 0):
            raise ValueError(f"its pickle has the instruction {name}, which tensors by name do not need")
        if name == "GLOBAL" and argument not in NAMES:
            raise ValueError(f"it holds {quoted(argument.replace(' ', '.'), 60)}, and only tensors by name are read")
        # Tuples of one tuple many times over would take for ever to compare: 2^n parts after n instructions.
        if name in _GET and argument in tuples:
            raise ValueError("its pickle uses one tuple several times, which tensors by name do not need")
        if name in _PUT:
            (tuples.add if is_tuple else tuples.discard)(argument)
        else:
            is_tuple = name in _TUPLES


def _instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of each instruction."""
    try:
        for code, argument, _ in pickletools.genops(content):
            yield code.name, argument
    except Exception as error:  # a damaged pickle raises many kinds
        raise ValueError("its pickle is damaged") from error
