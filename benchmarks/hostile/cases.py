"""What a hostile case is, and the helpers that several kinds share."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unveil.core.files import MIB

AUDIT = """
controls = []
[[client]]
name = "client"
model = "tiny_net:net"
images = "{images}"
size = 16
batch = 2
{more}
[[attack]]
name = "rog"
steps = 1
"""
SECRET = "TOP-SECRET-7f3a"
ESCAPE = "x\x1b]0;owned\x07\x1b[2J\x1b[1A\rNO LEAK FOUND\x9b31m\u202e"
MARKUP = (
    "\"><script>document.title='owned'</script><img src=x onerror=alert(1)></style></svg>]]>--><a href='javascript:1'>"
)


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A file or folder that was made to do harm, and the command that meets it.

    Args:
        kind: What it is, in the plural.
        name: What is wrong with it.
        args: The command's arguments.
        make: Puts it into a folder.
        codes: Exit codes that are right. 0 where it can be used without harm.
    """

    kind: str
    name: str
    args: tuple[str, ...]
    make: Callable[[Path], object]
    codes: tuple[int, ...] = (2,)


def audit_file(images: str = "builtin", more: str = "") -> str:
    """An audit of one trial."""
    return AUDIT.format(images=images, more=more)


def linked(target: str) -> Callable[[Path], object]:
    """What makes a path a link."""
    return lambda path: path.symlink_to(target)


STRANGE: Mapping[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to /dev/zero": linked("/dev/zero"),
    "a link to /dev/random": linked("/dev/random"),
    "a folder": Path.mkdir,
    "a circle of links": lambda path: path.symlink_to(path.name),
    "a link to nothing": linked("nowhere"),
    "a file without content": Path.touch,
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "a file of 5 GiB that is empty": lambda path: sparse(path, 5 * 1024 * MIB),
}
"""What any file may be instead."""


def sparse(path: Path, size: int) -> None:
    """Create a file of this many bytes that takes no room."""
    path.touch()
    os.truncate(path, size)


def png(width: int, height: int, rows: int | None = None) -> bytes:
    """A black picture; with `rows`, it has fewer rows than it says."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        both = kind + content
        return struct.pack(">I", len(content)) + both + struct.pack(">I", zlib.crc32(both))

    packer = zlib.compressobj(9)
    line = bytes(1 + 3 * width)
    there = range(height if rows is None else rows)
    packed = b"".join(packer.compress(line) for _ in there) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def npy(shape: str, descr: str = "<f4") -> bytes:
    """The header of an array."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(members: Mapping[str, bytes], *, zeros: int = 0) -> bytes:
    """An archive; `zeros` MiB of zeros are packed behind each member."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, start in members.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(start)
                for _ in range(zeros):
                    member.write(bytes(MIB))
    return content.getvalue()
