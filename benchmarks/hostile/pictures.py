"""Pictures, tables of labels, archives of pictures, audit files and recorded updates that were made to do harm."""

from __future__ import annotations

import importlib
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.frame import ROOT
from benchmarks.hostile.cases import ESCAPE, STRANGE, Hostile, audit_file, npy, png, zipped

AUDIT = ("audit", "audit.toml")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n(owned) (w) file closefile\nshowpage\n%%EOF\n"
TIFF_TAGS = ((258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1), (279, 4, 100))


def cases() -> Iterator[Hostile]:
    """The cases."""
    for name, content in pictures().items():
        yield Hostile(kind="pictures", name=name, args=AUDIT, make=_pictures(_content(content)))
    for name, strange in STRANGE.items():
        if name not in ("a folder",):  # a folder of this name is no picture, and is passed over
            yield Hostile(kind="pictures", name=name, args=AUDIT, make=_pictures(strange))
    for name, text in tables().items():
        yield Hostile(kind="tables of labels", name=name, args=AUDIT, make=_table(_content(text)))
    for name, strange in STRANGE.items():
        yield Hostile(kind="tables of labels", name=name, args=AUDIT, make=_table(strange))
    fit = ("fit", "bad.npz", "--work", "work", "--clients", "1", "--steps", "1")
    for name, content in archives().items():
        yield Hostile(kind="archives of pictures", name=name, args=fit, make=_at("bad.npz", _content(content)))
    for name, strange in STRANGE.items():
        yield Hostile(kind="archives of pictures", name=name, args=fit, make=_at("bad.npz", strange))
    for name, strange in STRANGE.items():
        yield Hostile(kind="audit files", name=name, args=AUDIT, make=_at("audit.toml", strange))
    for name, text in audit_files().items():
        yield Hostile(kind="audit files", name=name, args=AUDIT, make=_at("audit.toml", _content(text)))
    if str(ROOT / "tests") not in sys.path:
        sys.path.append(str(ROOT / "tests"))
    for name, case in importlib.import_module("captures.hostile").CASES.items():
        args = ("audit", f"bad{case.suffix}", "--model", "tiny_net:net")
        made = _at(f"bad{case.suffix}", lambda path, case=case: path.write_bytes(case.content()))
        yield Hostile(kind="recorded updates", name=name, args=args, make=made)


def pictures() -> Mapping[str, bytes]:
    """Pictures by what is wrong with them, whatever their names say."""

    def tiff(width: int, height: int) -> bytes:
        tags = sorted([(256, 4, width), (257, 4, height), (278, 4, height), *TIFF_TAGS])
        body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(400)

    bmp = struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
    return {
        "20,000 x 20,000 pixels": png(20_000, 20_000),
        "60,000 x 2^31 pixels": png(60_000, 2**31 - 1, rows=1),
        "no pixels": png(0, 5),
        "more pixels than are read, and fewer rows": png(11_000, 11_000, rows=1),
        "half a picture": png(40, 40)[:60],
        "EPS, which Ghostscript would run": EPS,
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "HTML": b"<script>alert(1)</script>",
        "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(100),
        "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(40),
        "TIFF of 2^32 x 2^32 pixels": tiff(2**32 - 1, 2**32 - 1),
        "TIFF of 60,000 x 60,000 pixels": tiff(60_000, 60_000),
        "TIFF in a circle": b"II*\0" + struct.pack("<IHI", 8, 0, 8),
        "BMP of 2^31 x 2^31 pixels": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + bmp,
        "PPM of 10^16 pixels": b"P6 99999999 99999999 255\n",
        "PPM of 100,000 digits": b"P6 " + b"9" * 100_000 + b" 1 255\n",
        "GIF of 65,535 x 65,535 pixels": b"GIF89a\xff\xff\xff\xff\x80\0\0"
        + bytes(6)
        + b",\0\0\0\0\xff\xff\xff\xff\0\x02",
    }


def tables() -> Mapping[str, str]:
    """Tables of labels by what is wrong with them."""
    good = "file,label\na/0.png,cat\n"
    return {
        "a file above": good + "../secret.png,dog\n",
        "a file above, deeper": good + "a/../../secret.png,dog\n",
        "an absolute path": good + "/etc/passwd,dog\n",
        "a device": good + "/dev/zero,dog\n",
        "a home": good + "~root/x.png,dog\n",
        "a null": good + "a\0.png,dog\n",
        "a path of 5,000 letters": good + "x" * 5000 + ",dog\n",
        "an open quote": good + '"a/1.png,dog\n',
        "a field of 200,000 letters": good + '"' + "y" * 200_000 + '",dog\n',
        "no header": "a/0.png,cat\n",
        "nothing but a header": "file,label\n",
        "two columns of one name": "file,label,label\na/0.png,cat,dog\n",
        "a label below 0": "file,label\na/0.png,-1\na/1.png,1\n",
        "a label of 10^30": "file,label\na/0.png,1" + "0" * 30 + "\na/1.png,1\n",
        "a label of NaN": "file,label\na/0.png,nan\na/1.png,1\n",
        "an infinite label": "file,label\na/0.png,inf\na/1.png,1\n",
        "a file twice": "file,label\na/0.png,cat\na/0.png,dog\n",
        "escapes": f"file,label\n{ESCAPE},cat\n",
    }


def archives() -> Mapping[str, bytes]:
    """Archives of pictures by what is wrong with them."""

    def archive(picture: bytes = b"", **changes: np.ndarray | None) -> bytes:
        import io

        blobs = [picture or png(32, 32)] * 4
        arrays: dict[str, np.ndarray | None] = {
            "data": np.frombuffer(b"".join(blobs), np.uint8),
            "offsets": np.cumsum([0, *map(len, blobs)]),
            "labels": np.arange(4) % 2,
            "classes": np.array(["a", "b"]),
        } | changes
        content = io.BytesIO()
        np.savez(content, allow_pickle=True, **{name: array for name, array in arrays.items() if array is not None})
        return content.getvalue()

    changed = {
        "offsets below 0": {"offsets": np.array([-5] * 5)},
        "offsets beyond the data": {"offsets": np.array([0, 10**15])},
        "offsets backwards": {"offsets": np.arange(5)[::-1] * 100},
        "offsets of NaN": {"offsets": np.full(5, np.nan)},
        "offsets of two sides": {"offsets": np.zeros((5, 2), int)},
        "labels below 0": {"labels": np.full(4, -1)},
        "labels of no class": {"labels": np.full(4, 99)},
        "labels of 2^64": {"labels": np.full(4, 2**64 - 1, np.uint64)},
        "no classes": {"classes": np.array([], "U1")},
        "objects": {"classes": np.array([{}, {}], dtype=object)},
        "no data": {"data": None},
        "data of floats": {"data": np.zeros(100)},
    }
    return {
        **{name: archive(**change) for name, change in changed.items()},
        "EPS": archive(EPS),
        "pictures of 20,000 x 20,000 pixels": archive(png(20_000, 20_000)),
        "pictures that say 60,000 x 60,000": archive(png(60_000, 60_000, rows=1)),
        "no pictures": archive(b"hello"),
        "pictures of one pixel": archive(png(1, 1)),
        "1 TB claimed": zipped({"data.npy": npy("(1099511627776,)", "|u1") + b"x"}),
        "1 GB of zeros, 5 claimed": zipped({"data.npy": npy("(5368709120,)", "|u1")}, zeros=1100),
    }


def audit_files() -> Mapping[str, str]:
    """Audit files by what is wrong with them; `strange_texts` has thousands more."""
    good = audit_file()
    return {
        "lists 100,000 deep": "a = " + "[" * 100_000,
        "tables 100,000 deep": "[" + ".".join(["a"] * 100_000) + "]",
        "a key of a million letters": "x" * 10**6 + " = 1",
        "a number of 100,000 digits": good.replace("batch = 2", "batch = " + "9" * 100_000),
        "a batch of 10^18": good.replace("batch = 2", "batch = 1" + "0" * 18),
        "a size of 10^9": good.replace("size = 16", "size = 1000000000"),
        "a true batch": good.replace("batch = 2", "batch = true"),
        "a seed of 2^64": "seeds = [18446744073709551616]\n" + good,
        "a bucket of 10^9 steps": good.replace("steps = 1", "steps = 1" + "0" * 30),
        "NaN": good.replace("steps = 1", "lr = nan"),
        "infinity": good.replace("steps = 1", "lr = inf"),
        "a name of 5,000 letters": good.replace("builtin", "x" * 5000),
        "a null in a path": good.replace("builtin", "a\\u0000b"),
        "a home of nobody": good.replace("builtin", "~nosuchuser/x"),
        "a device for pictures": good.replace("builtin", "/dev/zero"),
        "escapes in a key": f'"{ESCAPE.encode("unicode_escape").decode()}" = 1'.replace("\\x", "\\u00") + "\n" + good,
        "a model that ends the process": good.replace("tiny_net:net", "sys:exit"),
        "an obfuscation of 5,001 stages": f"obfuscations = {['none+' * 5000 + 'none']}\n" + good,
    }


def _content(content: bytes | str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def _at(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: make(folder / name)


def _folder(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / "pictures" / name).mkdir(parents=True)
    (folder / "pictures" / "a" / "1.png").write_bytes(png(40, 40))
    (folder / "secret.png").write_bytes(png(40, 40))


def _pictures(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(folder: Path) -> None:
        _folder(folder)
        (folder / "audit.toml").write_text(audit_file("pictures"))
        make(folder / "pictures" / "b" / "0.png")

    return both


def _table(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(folder: Path) -> None:
        _folder(folder)
        (folder / "pictures" / "a" / "0.png").write_bytes(png(40, 40))
        (folder / "audit.toml").write_text(audit_file("pictures", 'labels_csv = "bad.csv"'))
        make(folder / "bad.csv")

    return both
