"""Reading files of a folder that anybody may have filled, without ever leaving it.

A report embeds what a results folder holds, and is passed on. A link in the folder could lead to any file of the
reader, and a pipe or a device would never end. So a file is read only if each part of its path is a real folder inside
the folder, and the file itself is regular and not too large. The folder itself may be a link: the user named it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from unveil.core.errors import UsageError
from unveil.core.files import amount, kind_of, reason_of, shown

_ODD = frozenset("\\\0")
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_inside(folder: Path, path: str, *, most: int, fix: str) -> bytes:
    """Return the content of a file of a folder.

    Args:
        folder: The folder, which the user named.
        path: The file, relative to it, parts separated by `/`.
        most: Most bytes that the file may have.
        fix: The end of every message: what to do.

    Raises:
        UsageError: The path leads out of the folder or through a link, there is no such file, or it is not regular, too
            large or not readable.
    """
    _refuse_links(folder, path, fix)
    whole = os.path.join(folder, path)
    try:
        opened = os.open(whole, os.O_RDONLY | _SAFE)
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(whole)} cannot be opened ({reason_of(error)}); {fix}") from None
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{shown(whole)} is {kind_of(found.st_mode)}, expected a regular file; {fix}")
        if found.st_size > most:
            raise UsageError(f"{shown(whole)} has {amount(found.st_size)}, and at most {amount(most)} are read; {fix}")
        with open(opened, "rb", closefd=False) as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"{shown(whole)} cannot be read ({reason_of(error)}); {fix}") from None
    finally:
        os.close(opened)
    if len(content) > most:  # it grew, or its size was no truth, as in /proc
        raise UsageError(f"{shown(whole)} has more than {amount(most)}; {fix}")
    return content


def is_inside(path: str) -> bool:
    """Return whether a relative path, parts separated by `/`, names something below its folder on every system."""
    return bool(_parts(path)) and not path.startswith("/") and ".." not in _parts(path) and not _ODD.intersection(path)


def refuse_link(path: Path | str, fix: str) -> None:
    """Raise a `UsageError` if a path is a symbolic link: what is written or read through it lies elsewhere."""
    try:
        is_link = stat.S_ISLNK(os.lstat(path).st_mode)
    except (OSError, ValueError):  # it does not exist
        return
    if is_link:
        raise UsageError(f"{shown(path)} is a link, which could lead out of the folder; {fix}")


def _parts(path: str) -> list[str]:
    """The names in a relative path, parts separated by `/`."""
    return [part for part in path.split("/") if part not in ("", ".")]


def _refuse_links(folder: Path, path: str, fix: str) -> None:
    """Raise a `UsageError` unless the path stays below the folder, and none of its parts is a link."""
    if not is_inside(path):
        raise UsageError(f"{shown(path if chr(0) in path else folder / path)} is not inside {shown(folder)}; {fix}")
    place = os.fspath(folder)
    for part in _parts(path):
        place = f"{place}/{part}"
        refuse_link(place, fix)
