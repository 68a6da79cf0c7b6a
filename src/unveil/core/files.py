"""Reading files that a user names, and the only place of the package that writes files.

Reading: a file must be regular and of a sensible size before anything opens it. A pipe in its place would be waited
for without end, and a device read until the memory is full.

Writing: a file is there in full or not at all, whenever the process is stopped.
"""

from __future__ import annotations

import os
import secrets
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


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write or replace a file; when this returns, its content is on the disk.

    The content goes into a new file beside it, which then takes its name: a reader never sees half a file, and two
    processes that write the same file do not mix.

    Raises:
        OSError: The disk is full or the folder cannot be written; the file is as it was before.
    """
    part = path.with_name(f"{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet.

    Raises:
        FileExistsError: Something has this name already; it is left as it is.
        OSError: The disk is full or the folder cannot be written.
    """
    with path.open("xb") as file:
        file.write(content)


def append_whole(path: Path, line: bytes) -> None:
    """Add to the end of a file, created if missing; when this returns, the line is on the disk.

    Raises:
        OSError: The disk is full, so that only a part of the line may stand there, or the file cannot be written.
    """
    # Unbuffered, so that the line goes out in one piece and nothing is left to a later flush.
    with path.open("ab", buffering=0) as file:
        written = file.write(line)
        os.fsync(file.fileno())
    if written != len(line):
        raise OSError(None, "the disk took only a part of the line")
