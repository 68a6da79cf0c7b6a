"""Files of weights that were made to do harm: of enhancers, of LPIPS, of classifiers, of the client's own network."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from benchmarks.hostile.cases import ESCAPE, STRANGE, Hostile, audit_file, npy, zipped
from unveil.enhancers.weights import _checksum

ENHANCER = ("audit", "audit.toml", "--enhancer", "./bad.safetensors")
OWNED = Path("owned")
TENSORS = {"seen": torch.zeros(0, 32, dtype=torch.uint8), "code.0.weight": torch.zeros(4, 4).half()}


class Evil:
    """An object whose pickle runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {OWNED}",)


def cases() -> Iterator[Hostile]:
    """The cases."""
    for name, content in enhancers().items():
        yield Hostile(kind="enhancers", name=name, args=ENHANCER, make=_written("bad.safetensors", content))
    for name, strange in STRANGE.items():
        yield Hostile(kind="enhancers", name=name, args=ENHANCER, make=_made("bad.safetensors", strange))
    for suffix, what in (("npz", "LPIPS"), ("pt", "LPIPS"), ("pt", "classifiers"), ("pt", "networks")):
        args, more = ("audit", "audit.toml"), ""
        if what == "LPIPS":
            args = (*args, "--lpips-weights", f"bad.{suffix}")
        elif what == "classifiers":
            args = (*args, "--set", f'metrics.classifier="cifar10:bad.{suffix}"')
        else:
            more = f'weights = "bad.{suffix}"'
        for name, content in (archives() if suffix == "npz" else pickles()).items():
            made = _written(f"bad.{suffix}", content, more)
            yield Hostile(kind=f"weights of {what}", name=f"{name}, .{suffix}", args=args, make=made)
        for name, strange in STRANGE.items():
            made = _made(f"bad.{suffix}", strange, more)
            yield Hostile(kind=f"weights of {what}", name=f"{name}, .{suffix}", args=args, make=made)


def _written(name: str, content: bytes, more: str = "") -> Callable[[Path], object]:
    return _made(name, lambda path: path.write_bytes(content), more)


def _made(name: str, make: Callable[[Path], object], more: str = "") -> Callable[[Path], object]:
    def both(folder: Path) -> None:
        (folder / "audit.toml").write_text(audit_file(more=more))
        make(folder / name)

    return both


def enhancers() -> Mapping[str, bytes]:
    """Files of enhancers by what is wrong with them."""

    def file(tensors: Mapping[str, torch.Tensor] = TENSORS, **facts: str | None) -> bytes:
        named = {"unveil": "1", "kind": "restorer", "settings": "{}", "card": "{}", "checksum": _checksum(tensors)}
        return save(dict(tensors), {key: text for key, text in {**named, **facts}.items() if text is not None})

    whole = file()
    size = struct.unpack("<Q", whole[:8])[0]
    header: dict[str, Any] = json.loads(whole[8 : 8 + size])

    def raw(content: bytes, body: bytes = b"", length: int | None = None) -> bytes:
        return struct.pack("<Q", len(content) if length is None else length) + content + body

    def entry(**fields: Any) -> bytes:
        one = {"dtype": "F16", "shape": [1], "data_offsets": [0, 2], **fields}
        return raw(json.dumps({"__metadata__": header["__metadata__"], "x": one}).encode(), b"\0\0")

    settings = {
        "widths of giants": {"widths": [1024] * 8, "blocks": 4},
        "64 widths and 64 blocks": {"widths": [1024] * 64, "blocks": 64},
        "1,024 widths": {"widths": [1] * 1024},
        "a width of 10^30": {"widths": [10**30]},
        "no width": {"widths": []},
        "a width of 0": {"widths": [0]},
        "a width below 0": {"widths": [-1]},
        "a true width": {"widths": [True]},
        "a width of 32.5": {"widths": [32.5]},
        "nested widths": {"widths": [[32]]},
        "widths as text": {"widths": "abc"},
        "blocks below 0": {"blocks": -1},
        "blocks as text": {"blocks": "2"},
        "settings of another": {"depth": 3},
        "names as a number": {"names": 5},
        "3,000,000 names": {"names": ["a"] * 3_000_000},
    }
    found = {name: file(settings=json.dumps(value)) for name, value in settings.items()}
    found |= {f"generator, {n}": file(kind="generator", settings=json.dumps(value)) for n, value in settings.items()}
    found |= {
        "half a file": whole[: len(whole) // 2],
        "a header alone": whole[: 8 + size],
        "a header of 2^63 bytes": raw(whole[8:], length=2**63),
        "a header of 100 MB that is not there": raw(whole[8:], length=10**8),
        "a name twice": raw(b'{"x":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"x":1}', b"\0\0"),
        "lists 200,000 deep": raw(b'{"__metadata__":' + b"[" * 200_000),
        "no UTF-8": raw(b'{"\xff":1}'),
        "an unknown type": entry(dtype="Q7"),
        "a side of 2^62": entry(shape=[2**62]),
        "sides of 2^40 without values": entry(shape=[2**40, 0], data_offsets=[0, 0]),
        "100,000 sides": entry(shape=[1] * 100_000),
        "an offset below 0": entry(data_offsets=[-2, 0]),
        "an offset of 2^60": entry(data_offsets=[0, 2**60]),
        "another version": file(unveil="99"),
        "no version": file(unveil=None),
        "another kind": file(kind="poem"),
        "a kind that rewrites the terminal": file(kind=ESCAPE),
        "another checksum": file(checksum="0" * 16),
        "no checksum": file(checksum=None),
        "no settings": file(settings=None),
        "settings that are no JSON": file(settings="{"),
        "settings 100,000 deep": file(settings="[" * 100_000),
        "a card 100,000 deep": file(card='{"a":' * 100_000),
        "a card that is a list": file(card="[]"),
        "no fingerprints": file({"code.0.weight": torch.zeros(4, 4).half()}),
        "narrow fingerprints": file({"seen": torch.zeros(1, 5, dtype=torch.uint8)}),
        "a tensor of another network": file({**TENSORS, ESCAPE: torch.zeros(1)}),
        "a pickle": pickle.dumps(Evil()),
    }
    return found


def pickles() -> Mapping[str, bytes]:
    """Files of `torch.save` by what is wrong with them."""
    import io

    def saved(value: Any, **options: Any) -> bytes:
        content = io.BytesIO()
        torch.save(value, content, **options)
        return content.getvalue()

    return {
        "a pickle that runs a command": pickle.dumps(Evil()),
        "the same inside an archive": saved({"a": Evil()}),
        "the same in the old format": saved({"a": Evil()}, _use_new_zipfile_serialization=False),
        "a list": saved([1, 2, 3]),
        "a tensor": saved(torch.zeros(3)),
        "a text": saved("text"),
        "nothing": saved(None),
        "numbers as names": saved({1: 2}),
        "texts as tensors": saved({"conv.weight": "x"}),
        "a view of 2^40 values": saved({"conv.weight": torch.zeros(1).expand(1 << 40)}),
        "an archive of zeros": zipped({"archive/data.pkl": b""}, zeros=1100),
    }


def archives() -> Mapping[str, bytes]:
    """Archives of arrays by what is wrong with them."""
    good = npy("(2,)") + bytes(8)
    return {
        "objects that run a command": zipped({"conv0.weight.npy": npy("(2,)", "|O") + pickle.dumps(Evil())}),
        "a header that runs a command": zipped({"a.npy": npy(f"(2,)+__import__('os').system('touch {OWNED}')") + good}),
        "4 TB claimed": zipped({"conv0.weight.npy": npy("(1099511627776,)") + bytes(64)}),
        "a shape below zero": zipped({"conv0.weight.npy": npy("(-5,)") + bytes(64)}),
        "1 GB of zeros": zipped({"conv0.weight.npy": npy("(288358400,)")}, zeros=1100),
        "20,000 members": zipped({f"{number}.npy": b"" for number in range(20_000)}),
        "a header of 4 GB": zipped({"a.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)}),
        "a path out of the folder": zipped({"../../owned": good, "/owned": good}),
        "complex numbers": zipped({"conv0.weight.npy": npy("(1,)", "<c8") + bytes(8)}),
        "arrays of other names": zipped({"a.npy": good}),
        "a pickle": pickle.dumps(Evil()),
    }
