"""Files that a user names: known to be regular files of a sensible size before anything opens them.

A pipe in the place of a file would be waited for without end, and a device read until the memory is full.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from unveil.core.errors import UsageError

MIB = 2**20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular(path: Path, what: str, *, fix: str, absent: str | None = None, most: int | None = None) -> Path:
    """The path, once it is known to lead to a regular file; a symbolic link to one is fine.

    Args:
        path: What the user named.
        what: The start of the message, such as `lpips`; empty for none.
        fix: The end of the message: what to do.
        absent: The same where there is no such file; None for `fix`.
        most: Bytes that the file may have; None for any number.

    Raises:
        UsageError: There is no such file, it is something else or too large, or no system could have such a path.
    """
    start = f"{what}: {shown(path)}" if what else shown(path)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{start} does not exist; {fix if absent is None else absent}") from None
    except (OSError, ValueError) as error:  # too long, a loop of links, a NUL, half a character
        raise UsageError(f"{start} cannot be opened ({reason_of(error)}); {fix}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
        raise UsageError(f"{start} is {kind}, expected a regular file; {fix}")
    if most is not None and found.st_size > most:
        raise UsageError(f"{start} has {amount(found.st_size)}, and at most {amount(most)} are read; {fix}")
    return path


def read_bytes(path: Path, what: str, *, fix: str, absent: str | None = None, most: int) -> bytes:
    """The content of a regular file; arguments and errors as in `regular`."""
    try:
        return regular(path, what, fix=fix, absent=absent, most=most).read_bytes()
    except OSError as error:
        start = f"{what}: {shown(path)}" if what else shown(path)
        raise UsageError(f"{start} cannot be read ({reason_of(error)}); {fix}") from None


def is_regular(path: Path) -> bool:
    """Whether the path leads to a regular file; a path that no system could have leads to none."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether the path leads to a folder; a path that no system could have leads to none."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def shown(path: str | os.PathLike[str], longest: int = 200) -> str:
    """A path or a text of the user's for a message: in one line, without control characters, not endless."""
    text = os.fspath(path)
    return _cut(text if text.isprintable() else repr(text), longest)


def quoted(path: str | os.PathLike[str], longest: int = 200) -> str:
    """The same in quotes."""
    return _cut(repr(os.fspath(path)), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-(longest // 2) :]}"


def reason_of(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    text = getattr(error, "strerror", None) or str(error).strip()
    return shown(text.partition("\n")[0]) if text else type(error).__name__


def amount(size: int) -> str:
    """Bytes as a reader counts them."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", MIB), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}".replace(".0 ", " ")
    return f"{size} bytes"
