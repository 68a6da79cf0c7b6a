"""Loading trained weights from a file: it may hold tensors only, no code, and must have every tensor of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import Module

from unveil.core.errors import UsageError
from unveil.core.files import quoted, reason_of, regular, shown
from unveil.core.reads import shared_read
from unveil.core.state_dicts import BYTES, read_weights
from unveil.core.usercode import running

TORCH = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", ".npz", *TORCH)
FIX = "save model.state_dict() alone, best as .safetensors"
NESTS = ("state_dict", "model_state_dict", "model", "net", "weights", "params")
"""Keys under which a checkpoint may keep the weights of the network."""
WRAPPERS = {"module", "_orig_mod"}
"""Parts of names that DataParallel and torch.compile add."""
COUNTER = "num_batches_tracked"  # BatchNorm's buffer; older files do not have it, and no result depends on it

State = Mapping[str, Shaped[Tensor, " ..."]]
"""Parameters and buffers of a network by name; counters are integers, the rest are floats."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file.

    Args:
        path: The file.
        tensors: Name -> tensor, as in the file.
        checksum: The first 12 hexadecimal digits of the file's SHA-256.
    """

    path: Path
    tensors: State
    checksum: str

    def __str__(self) -> str:
        return f"{self.path.name} (SHA-256 {self.checksum})"


@shared_read
def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of weights: .safetensors, .npz, or a state_dict saved by torch.

    Raises:
        UsageError: The file is not regular, too large or damaged, has another suffix, or holds no tensors by name.
    """
    file = Path(path)
    who = f"weights {quoted(file)}"
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{who}: expected a file ending in {', '.join(SUFFIXES)}; {FIX}")
    if file.suffix.lower() == ".safetensors":
        tensors = _state(who, _read_safetensors(file))
    else:
        tensors = _state(who, read_weights(file, "weights", fix=FIX, absent="check the path"))
    with running(f"{who}: reading them", FIX), file.open("rb") as raw:
        checksum = hashlib.file_digest(raw, "sha256").hexdigest()[:12]
    return Checkpoint(file, tensors, checksum)


def load_into(model: Module, checkpoint: Checkpoint) -> None:
    """Copy the weights into a network, in place; names may differ by a prefix, such as DataParallel's `module.`.

    Raises:
        UsageError: A tensor is missing, left over, of another shape or not finite.
    """
    who = f"weights {quoted(checkpoint.path)}"
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    given = _renamed(checkpoint.tensors, list(own))
    missing = [name for name in own if name not in given and not name.endswith(COUNTER)]
    unknown = [name for name in given if name not in own]
    if missing:
        raise UsageError(
            f"{who}: the model's {missing[0]!r} is missing{_more(missing)}, "
            f"{_nearest(missing[0], unknown or list(given))}"
        )
    if unknown:
        raise UsageError(
            f"{who}: {unknown[0]!r} is no tensor of the model{_more(unknown)}, {_nearest(unknown[0], list(own))}"
        )
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise UsageError(
                f"{who}: {name!r} has shape {tuple(tensor.shape)}, and the model's has {tuple(own[name].shape)}; "
                "build the model as it was trained, such as with as many classes"
            )
        if tensor.is_complex() or not bool(torch.isfinite(tensor).all()):
            raise UsageError(f"{who}: {name!r} holds NaN, infinite or complex values; train or save it again")
    with running(f"{who}: loading them into the model", "build the model as it was trained"):
        state = {name: tensor.to(own[name].dtype) for name, tensor in given.items()}
        model.load_state_dict({**model.state_dict(), **state})


def _read_safetensors(file: Path) -> State:
    from safetensors.torch import load_file

    regular(file, "weights", fix=FIX, absent="check the path", most=BYTES)
    try:
        return load_file(file)
    except Exception as error:  # the reader raises many kinds for a damaged file
        raise UsageError(f"weights: {shown(file)} cannot be read ({reason_of(error)}); {FIX}") from None


def _state(who: str, found: Any) -> State:
    """Return the tensors of a state_dict, or of a checkpoint that keeps one under a key of `NESTS`.

    Args:
        who: The start of every message.
        found: What the file holds.

    Raises:
        UsageError: There are no tensors by name, or one of them is sparse, quantised or without values.
    """
    if isinstance(found, Mapping):
        for nest in NESTS:
            if isinstance(found.get(nest), Mapping):
                return _state(who, found[nest])
        tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if tensors:
            for name, tensor in tensors.items():
                if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
                    raise UsageError(
                        f"{who}: {name!r} is sparse, quantised or empty of numbers; save it as plain float"
                    )
            return tensors
    inside = f" of {', '.join(map(repr, list(found)[:3]))}" if isinstance(found, Mapping) and found else ""
    kind = f"a {type(found).__name__}{inside}"
    raise UsageError(f"{who}: expected tensors by name, got {kind[:100]}; save model.state_dict()")


def _renamed(given: State, own: list[str]) -> State:
    """Return the tensors under the model's names.

    Names are matched without the parts in `WRAPPERS`, and with one prefix that either the file or the model has.

    Args:
        given: The tensors under the file's names.
        own: The model's names.
    """
    bare = {_bare(name): name for name in own}
    stripped = {_bare(name): tensor for name, tensor in given.items()}
    first_own, first_given = next(iter(bare), ""), next(iter(stripped), "")
    cuts = {name.removesuffix(first_own) for name in stripped if name.endswith("." + first_own)}
    additions = {name.removesuffix(first_given) for name in bare if name.endswith("." + first_given)}
    ways = [("", ""), *((cut, "") for cut in sorted(cuts)), *(("", added) for added in sorted(additions))]
    cut, added = max(ways, key=lambda way: sum(way[1] + name.removeprefix(way[0]) in bare for name in stripped))
    renamed = {added + name.removeprefix(cut): tensor for name, tensor in stripped.items()}
    return {bare.get(name, name): tensor for name, tensor in renamed.items()}


def _bare(name: str) -> str:
    """Return the name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _more(names: list[str]) -> str:
    """Return ` and N more` for a message that shows the first of the names; nothing if there is only one."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _nearest(name: str, known: list[str]) -> str:
    """Return the end of a message about a name that is not among the known ones."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1) or known[:1]
    return f"the nearest is {close[0]!r}; build the model as it was trained" if close else "it holds none"
