"""Checks of a zip archive before a reader of archives opens it: .npz and .pt files are archives.

An archive lists its members in a directory at its end. Readers disagree on which directory counts if there are several,
so exactly one is allowed, and nothing behind it. Its size is checked too, because a reader keeps all of it in memory.
The format: PKWARE's APPNOTE, sections 4.3.12 to 4.3.16.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Sequence
from io import BufferedReader

from unveil.core.files import MIB, amount, quoted

DIRECTORY = 2 * MIB
"""Most bytes of an archive's directory; that of 10,000 arrays has about 1 MiB."""
SLACK = 64 * MIB
"""How many bytes more than the file an archive may unpack to."""

_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_SIZE, _END64_SIZE, _LOCATOR_SIZE = 22, 56, 20
_COMMENT = 65535
_LARGE = 0xFFFFFFFF


def members_of(file: BufferedReader, *, packed: bool) -> Sequence[zipfile.ZipInfo]:
    """Check an archive and return its members.

    Args:
        file: The archive, open for reading; it is left at its start.
        packed: Members may be compressed.

    Raises:
        ValueError: It is no archive, it has more than one directory, a member twice, compressed members that must not
            be, or unpacks to much more than it has.
    """
    size = os.fstat(file.fileno()).st_size
    _check_directory(file, size)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    file.seek(0)
    seen: set[str] = set()
    for member in members:
        if member.filename in seen:
            raise ValueError(f"it has the member {quoted(member.filename, 60)} twice")
        seen.add(member.filename)
        if not packed and member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its member {quoted(member.filename, 60)} is compressed, which torch.save never does")
    unpacked = sum(member.file_size for member in members)
    if unpacked > size + SLACK:
        raise ValueError(f"it has {amount(size)} and unpacks to {amount(unpacked)}; save it without compression")
    return members


def _check_directory(file: BufferedReader, size: int) -> None:
    """Raise a `ValueError` unless the archive has one directory, right before its end, of at most `DIRECTORY` bytes."""
    start = max(0, size - _COMMENT - _END_SIZE)
    file.seek(start)
    tail = file.read()
    end = len(tail) - _END_SIZE
    if end < 0 or tail[end : end + 4] != _END or tail.count(_END) != 1 or tail[-2:] != b"\0\0":
        raise ValueError("it is no archive, or has more than one directory or a comment at its end")
    length, offset = struct.unpack_from("<II", tail, end + 12)
    end64 = end - _LOCATOR_SIZE - _END64_SIZE
    if tail[max(end - _LOCATOR_SIZE, 0) : end][:4] == _LOCATOR:
        if end64 < 0 or tail[end64 : end64 + 4] != _END64:
            raise ValueError("its directory is damaged")
        (place,) = struct.unpack_from("<Q", tail, end - _LOCATOR_SIZE + 8)
        length, offset = struct.unpack_from("<QQ", tail, end64 + 40)
        if place != start + end64:
            raise ValueError("its directory is damaged")
        end = end64
    if offset + length != start + end:
        raise ValueError("its directory is damaged")
    if length > DIRECTORY:
        raise ValueError(f"its directory has {amount(length)}, and at most {amount(DIRECTORY)} are read")
