"""Files that are no recorded updates and were made to do harm; `python tests/captures/hostile.py` measures the reader.

Each case is a file's suffix, its content, and a part of the sentence with which the reader must refuse it. A file that
would run code makes the file `SENTINEL`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

SENTINEL = Path(tempfile.gettempdir()) / "unveil-hostile-code-was-run"
ONE = np.ones(1, np.float32).tobytes()
GOOD = {"client/w": ("F32", [1], ONE), "global/w": ("F32", [1], ONE)}


@dataclass(frozen=True, kw_only=True)
class Hostile:
    suffix: str
    content: Callable[[], bytes]
    says: str


def raw(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of a header as it is."""
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def tensors(given: Mapping[str, tuple[str, list[int], bytes]], metadata: Mapping[str, str] | None = None) -> bytes:
    """A well-formed safetensors file of tensors: type, shape, bytes."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    body = b""
    for name, (kind, shape, content) in given.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    return raw(json.dumps(header).encode(), body)


def entry(body: bytes = ONE, **changes: Any) -> bytes:
    """A file of one tensor `gradient/w`, with some fields of its entry replaced."""
    fields = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}
    return raw(json.dumps({"gradient/w": fields}).encode(), body)


def manifest(text: str) -> bytes:
    """A file that is fine but for its manifest."""
    return tensors(GOOD, {"manifest": text})


def facts(**given: Any) -> bytes:
    return manifest(json.dumps({"format": 1, "facts": given}))


def value(**given: Any) -> bytes:
    return facts(**{name: {"value": item, "source": "declared"} for name, item in given.items()})


def two(first: list[int], second: list[int], size: int) -> bytes:
    """A file of two tensors at places of which the caller says where they are, in a body of `size` bytes."""
    places = {"gradient/a": first, "gradient/b": second}
    header = {n: {"dtype": "U8", "shape": [p[1] - p[0]], "data_offsets": p} for n, p in places.items()}
    return raw(json.dumps(header).encode(), bytes(size))


def numbers(kind: str, dtype: torch.dtype, number: float) -> bytes:
    content = torch.tensor([number], dtype=dtype).view(torch.uint8).numpy().tobytes()
    return tensors({"gradient/w": (kind, [1], content)})


SAFETENSORS: dict[str, tuple[Callable[[], bytes], str]] = {
    "an empty file": (lambda: b"", "shorter than its header"),
    "seven bytes": (lambda: bytes(7), "shorter than its header"),
    "a header longer than the file": (lambda: raw(b"{}", length=3), "shorter than its header"),
    "a header of 2^63 bytes": (lambda: raw(b"{}", length=2**63), "shorter than its header"),
    "a header of 2^64 - 1 bytes": (lambda: raw(b"{}", length=2**64 - 1), "shorter than its header"),
    "a header of 5 MiB": (lambda: raw(b" " * 5 * 2**20), "its header has 5 MiB, and at most 2 MiB are read"),
    "a header of 2 MiB of empty tables": (lambda: raw(b"[" + b"{}," * 699_000 + b"{}]"), "its header is no table"),
    "a header of no bytes": (lambda: raw(b""), "it is no JSON"),
    "a header that is no JSON": (lambda: raw(b"{]"), "it is no JSON"),
    "a header that is no UTF-8": (lambda: raw(b'{"\xff": 1}'), "it is no UTF-8"),
    "a header that is a list": (lambda: raw(b"[]"), "its header is no table"),
    "a header that is a number": (lambda: raw(b"7"), "its header is no table"),
    "a header that is null": (lambda: raw(b"null"), "its header is no table"),
    "lists 500,000 deep": (lambda: raw(b"[" * 500_000), "nest too deep"),
    "tables 300,000 deep": (lambda: raw(b'{"a":' * 300_000), "nest too deep"),
    "NaN in the header": (lambda: raw(b'{"a": NaN}'), "it holds NaN"),
    "infinity in the header": (lambda: raw(b'{"a": -Infinity}'), "it holds -Infinity"),
    "a number of a million digits": (lambda: raw(b'{"a": ' + b"9" * 10**6 + b"}"), "cannot be read: "),
    "a name twice": (lambda: raw(b'{"gradient/w": 1, "gradient/w": 2}'), "names something twice"),
    "a name twice, once escaped": (lambda: raw(b'{"gradient/w": 1, "gradient/\\u0077": 2}'), "names something twice"),
    "a type twice": (lambda: raw(b'{"gradient/w": {"dtype": "F32", "dtype": "U8"}}'), "names something twice"),
    "metadata twice": (lambda: raw(b'{"__metadata__": {}, "__metadata__": {}}'), "names something twice"),
    "a manifest twice": (lambda: raw(b'{"__metadata__": {"manifest": "", "manifest": ""}}'), "names something twice"),
    "metadata as a list": (lambda: raw(b'{"__metadata__": []}'), "no table of texts"),
    "metadata as numbers": (lambda: raw(b'{"__metadata__": {"manifest": 1}}'), "no table of texts"),
    "an entry as a list": (lambda: raw(b'{"gradient/w": []}'), "not just dtype, shape and data_offsets"),
    "an entry without a type": (lambda: raw(b'{"w": {"shape": [], "data_offsets": [0, 0]}}'), "not just dtype"),
    "an entry with more": (partial(entry, code="import os"), "not just dtype, shape and data_offsets"),
    "eight-bit floats": (partial(entry, dtype="F8_E4M3"), "has the type F8_E4M3"),
    "complex numbers": (partial(entry, dtype="C64"), "has the type C64"),
    "a type of no name": (partial(entry, dtype="\x1b[2J"), r"has the type '\x1b[2J'"),
    "a type as a number": (partial(entry, dtype=32), "has the type 32"),
    "a type as a list": (partial(entry, dtype=["F32"]), "has the type ['F32']"),
    "a shape as a text": (partial(entry, shape="1"), "is no list of at most 16 whole numbers"),
    "a shape below zero": (partial(entry, shape=[-1]), "is no list of at most 16 whole numbers"),
    "two sides below zero": (partial(entry, shape=[-1, -1]), "is no list of at most 16 whole numbers"),
    "a shape of fractions": (partial(entry, shape=[1.0]), "is no list of at most 16 whole numbers"),
    "a shape of truths": (partial(entry, shape=[True]), "is no list of at most 16 whole numbers"),
    "a shape of lists": (partial(entry, shape=[[1]]), "is no list of at most 16 whole numbers"),
    "a side of 2^70": (partial(entry, shape=[2**70]), "is no list of at most 16 whole numbers"),
    "17 sides": (partial(entry, shape=[1] * 17), "is no list of at most 16 whole numbers"),
    "sides whose product is 2^64": (partial(entry, shape=[2**32, 2**32]), "claims the shape"),
    "no values, with giant sides": (
        partial(entry, b"", shape=[0, 2**40, 2**40], data_offsets=[0, 0]),
        "cannot be read",
    ),
    "three offsets": (partial(entry, data_offsets=[0, 4, 8]), "are not two whole numbers"),
    "an offset below zero": (partial(entry, data_offsets=[-4, 0]), "are not two whole numbers"),
    "offsets as texts": (partial(entry, data_offsets=["0", "4"]), "are not two whole numbers"),
    "an offset of 2^80": (partial(entry, data_offsets=[0, 2**80]), "are not two whole numbers"),
    "offsets turned round": (partial(entry, data_offsets=[4, 0]), "claims the shape"),
    "offsets behind the file": (partial(entry, data_offsets=[1000, 1004]), "overlap, or there are bytes between"),
    "more bytes than the file": (partial(entry, shape=[2**30], data_offsets=[0, 2**32]), "and 4 are there"),
    "a shape of fewer values": (partial(entry, bytes(8), data_offsets=[0, 8]), "claims the shape"),
    "a shape of more values": (partial(entry, shape=[2**38]), "claims the shape"),
    "a giant of no stride": (partial(entry, shape=[2**38], data_offsets=[0, 0]), "claims the shape"),
    "two tensors that overlap": (partial(two, [0, 6], [4, 10], 10), "overlap, or there are bytes between"),
    "two tensors at one place": (partial(two, [0, 4], [0, 4], 4), "overlap, or there are bytes between"),
    "bytes before the tensors": (partial(two, [2, 4], [4, 6], 6), "overlap, or there are bytes between"),
    "bytes between the tensors": (partial(two, [0, 4], [6, 8], 8), "overlap, or there are bytes between"),
    "bytes behind the tensors": (partial(two, [0, 4], [4, 8], 9), "have 8 bytes, and 9 are there"),
    "a file that was cut": (lambda: tensors(GOOD)[:-1], "have 8 bytes, and 7 are there"),
    "10,001 tensors": (lambda: tensors({f"gradient/{i}": ("U8", [0], b"") for i in range(10_001)}), "10,001 tensors"),
    "truths that are 2": (lambda: tensors({"gradient/w": ("BOOL", [2], b"\1\2")}), "neither true nor false"),
    "NaN": (partial(numbers, "F32", torch.float32, float("nan")), "holds NaN or infinite values"),
    "NaN of 64 bits": (partial(numbers, "F64", torch.float64, float("nan")), "holds NaN or infinite values"),
    "NaN of 16 bits": (partial(numbers, "F16", torch.float16, float("nan")), "holds NaN or infinite values"),
    "NaN of bfloat16": (partial(numbers, "BF16", torch.bfloat16, float("nan")), "holds NaN or infinite values"),
    "infinity": (partial(numbers, "F32", torch.float32, float("inf")), "holds NaN or infinite values"),
    "minus infinity": (partial(numbers, "F32", torch.float32, float("-inf")), "holds NaN or infinite values"),
    "NaN before training": (
        lambda: tensors({**GOOD, "global/w": ("F32", [1], b"\0\0\xc0\x7f")}),
        "holds NaN or infinite values",
    ),
    "nothing": (lambda: raw(b"{}"), "nothing in it was sent"),
    "nothing sent": (lambda: tensors({"global/w": ("F32", [1], ONE)}), "nothing in it was sent"),
    "a name in no part": (lambda: tensors({**GOOD, "w": ("F32", [1], ONE)}), "'w' is in no part"),
    "a name in two parts": (lambda: tensors({**GOOD, "delta/w": ("F32", [1], ONE)}), "'w' is in more than one of"),
    "nothing before": (lambda: tensors({"client/w": ("F32", [1], ONE)}), "has no global/ beside it"),
    "another shape before": (lambda: tensors({**GOOD, "client/w": ("F32", [1, 1], ONE)}), "has shape (1, 1)"),
    "another type before": (lambda: tensors({**GOOD, "client/w": ("I32", [1], ONE)}), "the other whole numbers"),
    "a name of two lines": (lambda: tensors({"gradient/a\nb": ("F32", [1], ONE)}), "is no name of"),
    "a name that clears the screen": (lambda: tensors({"gradient/\x1b[2J": ("F32", [1], ONE)}), "is no name of"),
    "a name of no letters": (lambda: tensors({"gradient/": ("F32", [1], ONE)}), "is no name of"),
    "a name of 501 letters": (lambda: tensors({"gradient/" + "w" * 501: ("F32", [1], ONE)}), "is no name of"),
}

MANIFESTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no text": (partial(manifest, ""), "it is no JSON"),
    "a list": (partial(manifest, "[]"), 'expected a manifest with "format": 1'),
    "no version": (partial(manifest, "{}"), 'expected a manifest with "format": 1'),
    "version 2": (partial(manifest, '{"format": 2}'), 'expected a manifest with "format": 1'),
    "version true": (partial(manifest, '{"format": true}'), 'expected a manifest with "format": 1'),
    "version in quotes": (partial(manifest, '{"format": "1"}'), 'expected a manifest with "format": 1'),
    "a key of another program": (partial(manifest, '{"format": 1, "code": "x"}'), "has no key 'code'"),
    "lists 100,000 deep": (partial(manifest, '{"format": 1, "order": ' + "[" * 100_000), "nest too deep"),
    "facts twice": (partial(manifest, '{"format": 1, "facts": {}, "facts": {}}'), "names something twice"),
    "NaN": (partial(manifest, '{"format": NaN}'), "it holds NaN"),
    "facts as a list": (partial(manifest, '{"format": 1, "facts": []}'), "expected the facts as a table"),
    "an order of numbers": (partial(manifest, '{"format": 1, "order": [0]}'), "expected the order as"),
    "an order as a text": (partial(manifest, '{"format": 1, "order": "w"}'), "expected the order as"),
    "an order of 10,001": (
        lambda: manifest(json.dumps({"format": 1, "order": [str(i) for i in range(10_001)]})),
        "expected the order as at most 10000 names",
    ),
    "an order of one name twice": (partial(manifest, '{"format": 1, "order": ["w", "w"]}'), "names a tensor twice"),
    "an order of another name": (partial(manifest, '{"format": 1, "order": ["v"]}'), "such as by 'v'"),
    "an unknown fact": (partial(facts, learning_rat=1), "did you mean 'learning_rate'?"),
    "a bare value": (partial(facts, steps=1), 'expected steps as {"value": ..., "source": ...}'),
    "no source": (partial(facts, steps={"value": 1}), 'expected steps as {"value": ..., "source": ...}'),
    "a source that is none": (partial(facts, steps={"value": 1, "source": "guessed"}), "expected the source of steps"),
    "a source as a list": (partial(facts, steps={"value": 1, "source": []}), "expected the source of steps"),
    "unknown, with a value": (partial(facts, steps={"value": 1, "source": "unknown"}), "its value is null"),
    "declared, without one": (partial(facts, steps={"value": None, "source": "declared"}), "its value is null"),
    "no steps": (partial(value, steps=0), "expected steps as a whole number from 1"),
    "half a step": (partial(value, steps=1.5), "expected steps as a whole number from 1"),
    "steps of true": (partial(value, steps=True), "expected steps as a whole number from 1"),
    "10^20 steps": (partial(value, steps=10**20), "expected steps as a whole number from 1"),
    "a learning rate of 0": (partial(value, learning_rate=0), "expected learning_rate as a number from 1e-30"),
    "a learning rate of 10^400": (
        partial(manifest, '{"format": 1, "facts": {"learning_rate": {"value": 1e400, "source": "declared"}}}'),
        "expected learning_rate as a number from 1e-30",
    ),
    "a learning rate in quotes": (partial(value, learning_rate="0.1"), "expected learning_rate as a number"),
    "momentum of 2": (partial(value, momentum=2), "expected momentum as a number from 0 to 1"),
    "a mode of no name": (partial(value, mode="training"), 'expected mode as "train" or "eval"'),
    "a mode as a table": (partial(value, mode={}), 'expected mode as "train" or "eval"'),
    "a loss that is neither": (partial(value, loss_reduction="max"), 'expected loss_reduction as "mean" or "sum"'),
    "a spread of 0": (partial(value, normalisation={"mean": [0], "std": [0]}), "std above 0"),
    "means of no spread": (partial(value, normalisation={"mean": [0]}), "std above 0"),
    "pictures of two sides": (partial(value, image_shape=[32, 32]), "expected image_shape as [channels, height"),
    "pictures of 10^12 pixels a side": (partial(value, image_shape=[3, 10**12, 1]), "expected image_shape as"),
    "labels as a text": (partial(value, labels="0123"), "expected labels as a list of class indices"),
    "labels below zero": (partial(value, labels=[-1]), "expected labels as a list of class indices"),
    "a text that clears the screen": (partial(value, client="\x1b[2J"), "expected client as a text of"),
    "a text of two lines": (partial(value, framework="a\nb"), "expected framework as a text of"),
    "a text of 201 letters": (partial(value, model="m" * 201), "expected model as a text of"),
    "a text of no letters": (partial(value, obfuscation=""), "expected obfuscation as a text of"),
}


def zipped(members: Mapping[str, bytes], **options: Any) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        for name, inner in members.items():
            archive.writestr(name, inner)
    return content.getvalue()


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **{name.replace("__", "/"): array for name, array in arrays.items()})
    return content.getvalue()


def npy(header: bytes, body: bytes = ONE) -> bytes:
    """An .npz of one array with a header as it is."""
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body
    return zipped({"gradient/w.npy": array})


def described(kind: str, shape: str, order: str = "False") -> bytes:
    return f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}}}\n".encode()


def patched(content: bytes, where: int, new: bytes) -> bytes:
    where %= len(content)
    return content[:where] + new + content[where + len(new) :]


def twice(name: str, other: str) -> bytes:
    """An archive with two members, the second of which was given the first one's name."""
    return zipped({name: b"1", other: b"2"}).replace(other.encode(), name.encode())


def short() -> bytes:
    """An .npz whose one member unpacks to fewer bytes than its archive says."""
    header = described("'<f4'", "(2,)")
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    content = zipped({"gradient/w.npy": array + ONE}, compression=zipfile.ZIP_DEFLATED)
    return patched(content, content.rindex(b"PK\x01\x02") + 24, struct.pack("<I", len(array) + 8))


class Code:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (SENTINEL,)


NPZ: dict[str, tuple[Callable[[], bytes], str]] = {
    "no archive": (lambda: b"\x93NUMPY", "it is no archive"),
    "an empty file": (lambda: b"", "it is no archive"),
    "an empty archive": (lambda: zipped({}), "nothing in it was sent"),
    "an archive with a comment": (lambda: npz(gradient__w=np.ones(1))[:-2] + b"\x05\x00hello", "it is no archive"),
    "an archive in front of another": (
        lambda: npz(gradient__w=np.ones(1)) + npz(gradient__w=np.zeros(1)),
        "more than one directory",
    ),
    "bytes before the archive": (lambda: b"#!/bin/sh\n" + npz(gradient__w=np.ones(1)), "its directory is damaged"),
    "a directory at no place": (lambda: patched(zipped({"a": b""}), -6, b"\0\0\0\1"), "its directory is damaged"),
    "a directory of 2.5 MiB": (lambda: zipped({"a" * 60_000 + str(i): b"" for i in range(45)}), "its directory has"),
    "10,001 members": (lambda: zipped({f"gradient/{i}.npy": b"" for i in range(10_001)}), "10001 members"),
    "a bomb": (
        lambda: zipped({"gradient/w.npy": bytes(200 * 2**20)}, compression=zipfile.ZIP_DEFLATED, compresslevel=1),
        "and unpacks to 200 MiB",
    ),
    "a member twice": (lambda: twice("gradient/a.npy", "gradient/b.npy"), "'gradient/a.npy' twice"),
    "an array twice": (lambda: zipped({"gradient/a": b"1", "gradient/a.npy": b"2"}), "have the same name"),
    "a member that is no array": (lambda: zipped({"gradient/w.npy": b"hello"}), "has no header of an array"),
    "an array of a pickle": (lambda: npz(gradient__w=np.array([Code()], dtype=object)), "not numbers or texts"),
    "a header that is code": (lambda: npy(b"__import__('os').abort()\n"), "has no header of an array"),
    "a header of 60,000 brackets": (lambda: npy(b"(" * 60_000), "has no header of an array"),
    "a header of giant sides": (lambda: npy(described("'<f4'", "(4294967296, 4294967296)")), "claims the shape"),
    "a header below zero": (lambda: npy(described("'<f4'", "(-1,)")), "claims the shape"),
    "a header of more values": (lambda: npy(described("'<f4'", "(1000000000000,)")), "claims the shape"),
    "an array of records": (lambda: npy(described("[('a', '<f4')]", "(1,)")), "not numbers or texts"),
    "complex numbers": (lambda: npz(gradient__w=np.ones(1, complex)), "expected real numbers"),
    "texts": (lambda: npz(gradient__w=np.array(["a"])), "is a ndarray, not a tensor of numbers"),
    "unsigned numbers of 64 bits": (lambda: npz(gradient__w=np.ones(1, np.uint64)), "expected real numbers"),
    "a manifest of numbers": (lambda: npz(gradient__w=np.ones(1), manifest=np.ones(1)), "its manifest is no text"),
    "two manifests": (lambda: npz(gradient__w=np.ones(1), manifest=np.array(["{}"] * 2)), "its manifest is no text"),
    "NaN": (lambda: npz(gradient__w=np.full(1, np.nan)), "holds NaN or infinite values"),
    "infinity": (lambda: npz(gradient__w=np.full(1, np.inf, np.float16)), "holds NaN or infinite values"),
    "content that was changed": (
        lambda: npz(gradient__w=np.ones(9999)).replace(np.ones(99).tobytes(), np.zeros(99).tobytes()),
        "Bad CRC-32",
    ),
    "a member that ends early": (short, "ends early"),
    "an unknown compression": (
        lambda: npz(gradient__w=np.ones(1)).replace(b"\0\0\0\0!\0", b"\x63\0\0\0!\0"),
        "compression method is not supported",
    ),
}


def saved(value: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content, **options)
    return content.getvalue()


def repickled(change: Callable[[bytes], bytes]) -> bytes:
    """A .pt whose pickle was changed."""
    given = {"gradient": {"w": torch.ones(3)}}
    with zipfile.ZipFile(io.BytesIO(saved(given))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return zipped({n: change(content) if n.endswith("data.pkl") else content for n, content in members.items()})


def tuple_of_tuples(_: bytes) -> bytes:
    """A pickle of a mapping whose key is a tuple of 2^60 parts, all of them the same two."""
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    return b"\x80\x02})" + doubled + b"K\x01s."


STORAGE = b"ctorch\nFloatStorage\nJ\x00\x00\x00\x7f\x85R"
PT: dict[str, tuple[Callable[[], bytes], str]] = {
    "a pickle that runs code": (lambda: pickle.dumps(Code()), "it is no archive"),
    "code in the archive": (lambda: saved({"gradient": {"w": Code()}}), "only tensors by name are read"),
    "code by an old protocol": (
        lambda: repickled(lambda _: pickle.dumps(Code(), protocol=0)),
        "only tensors by name are read",
    ),
    "code by a new protocol": (
        lambda: repickled(lambda _: pickle.dumps(Code(), protocol=5)),
        "which tensors by name do not need",
    ),
    "eval": (lambda: repickled(lambda _: b"\x80\x02c__builtin__\neval\nX\x01\0\0\x001\x85R."), "__builtin__.eval"),
    "a buffer of 2 GiB": (
        lambda: repickled(lambda _: b"\x80\x02c__builtin__\nbytearray\nJ\0\0\0\x7f\x85R."),
        "bytearr",
    ),
    "a storage of 8 GiB": (lambda: repickled(lambda _: b"\x80\x02" + STORAGE + b"."), "cannot be read"),
    "a whole network": (lambda: saved(torch.nn.Linear(2, 2)), "only tensors by name are read"),
    "the format of former versions": (
        lambda: saved({"gradient": {"w": torch.ones(1)}}, _use_new_zipfile_serialization=False),
        "it is no archive",
    ),
    "no pickle": (lambda: zipped({"archive/data/0": ONE}), "no archive of torch.save with one small pickle"),
    "two pickles": (lambda: zipped({"a/data.pkl": b"", "b/data.pkl": b""}), "with one small pickle"),
    "a pickle of 17 MiB": (lambda: zipped({"a/data.pkl": bytes(17 * 2**20)}), "with one small pickle"),
    "an empty pickle": (lambda: repickled(lambda _: b""), "its pickle is damaged"),
    "a pickle that was cut": (lambda: repickled(lambda content: content[:-20]), "its pickle is damaged"),
    "a million instructions": (lambda: repickled(lambda _: b"\x80\x02" + b"N" * 10**6 + b"."), "more than 500,000"),
    "a key of 2^60 parts": (lambda: repickled(tuple_of_tuples), "uses one tuple several times"),
    "a storage of another size": (
        lambda: repickled(lambda content: content.replace(b"K\x03\x85", b"J\0\0\0\x7f\x85")),
        "cannot be read",
    ),
    "a storage that is not there": (
        lambda: repickled(lambda content: content.replace(b"X\x01\0\0\x000", b"X\x01\0\0\x009")),
        "cannot be read",
    ),
    "a giant of no stride": (
        lambda: saved({"gradient": {"w": torch.ones(1).expand(2**40)}}),
        "repeats fewer values; make it contiguous",
    ),
    "a compressed member": (
        lambda: zipped({"a/data.pkl": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED),
        "is compressed, which torch.save never does",
    ),
    "a sparse tensor": (lambda: saved({"gradient": {"w": torch.eye(2).to_sparse()}}), "only tensors by name are read"),
    "complex numbers": (lambda: saved({"gradient": {"w": torch.ones(1) * 1j}}), "only tensors by name are read"),
    "a list": (lambda: saved([torch.ones(1)]), "it holds a list, expected tensors by name"),
    "a tensor": (lambda: saved(torch.ones(1)), "it holds a Tensor, expected tensors by name"),
    "names that are numbers": (lambda: saved({0: torch.ones(1)}), "names something by a int, expected texts"),
    "a part of numbers": (lambda: saved({"gradient": {0: torch.ones(1)}}), "by other things than texts"),
    "a tensor that is a number": (lambda: saved({"gradient": {"w": 1.0}}), "is a float, not a tensor of numbers"),
    "tensors in tensors": (lambda: saved({"gradient": {"w": {"v": torch.ones(1)}}}), "is a dict, not a tensor"),
    "a manifest of numbers": (lambda: saved({"gradient": {"w": torch.ones(1)}, "manifest": 1}), "manifest is no text"),
    "NaN": (lambda: saved({"gradient": {"w": torch.full((1,), float("nan"))}}), "holds NaN or infinite values"),
}

CASES: Mapping[str, Hostile] = {
    f"{family}: {name}": Hostile(suffix=suffix, content=content, says=says)
    for family, suffix, cases in (
        ("safetensors", ".safetensors", SAFETENSORS),
        ("manifest", ".safetensors", MANIFESTS),
        ("npz", ".npz", NPZ),
        ("pt", ".pt", PT),
    )
    for name, (content, says) in cases.items()
}


def measured(folder: Path) -> Iterator[tuple[str, float, float, str]]:
    """Name, processor seconds, MiB above the file's size and sentence of each case, each in a process of its own."""
    from unveil.captures.reading import read_recording
    from unveil.core.errors import UsageError

    good = folder / "good.safetensors"
    good.write_bytes(tensors(GOOD))
    read_recording(good)  # imports what reading needs
    for name, case in CASES.items():
        path = folder / f"hostile{case.suffix}"
        path.write_bytes(case.content())
        reader, writer = os.pipe()
        if not (child := os.fork()):
            Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
            before, start = _peak(), time.process_time()
            try:
                read_recording(path)
                said = "READ"
            except UsageError as error:
                said = str(error)
            seconds = time.process_time() - start
            above = _peak() - before - path.stat().st_size / 2**20
            os.write(writer, json.dumps([seconds, max(above, 0), said]).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as pipe:
            yield name, *json.loads(pipe.read() or b'[-1, -1, "DIED"]')


def _peak() -> float:
    """Peak memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        rows = list(measured(Path(temporary)))
    for name, seconds, above, said in sorted(rows, key=lambda row: row[1]):
        sys.stdout.write(f"{seconds:6.3f} s {above:6.1f} MiB  {name}  |  {said}\n")
    worst = (max(row[1] for row in rows), max(row[2] for row in rows))
    sys.stdout.write(f"{len(rows)} files, at most {worst[0]:.2f} s and {worst[1]:.0f} MiB above the file's size\n")
