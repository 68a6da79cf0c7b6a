"""Reading files that a user names, and writing files; no other module of the package writes files.

Reading: a file is checked to be regular and not too large before it is opened. Without that, unveil would wait for ever
for a pipe, and read a device until the memory is full.

Writing: a file exists in full or not at all, even if the process is stopped at any time.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from functools import partial
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
    """Check that a path leads to a regular file, also by a symbolic link, and return the path.

    Args:
        path: The path that the user named.
        what: The start of the message, such as `lpips`; empty for none.
        fix: The end of the message: what to do.
        absent: The end of the message if there is no such file; None for `fix`.
        most: Most bytes that the file may have; None for any number.

    Raises:
        UsageError: There is no such file, it is not regular or too large, or the path is not valid.
    """
    start = f"{what}: {shown(path)}" if what else shown(path)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{start} does not exist; {fix if absent is None else absent}") from None
    except (OSError, ValueError) as error:  # a path too long, a loop of links, a NUL, half of a surrogate pair
        raise UsageError(f"{start} cannot be opened ({reason_of(error)}); {fix}") from None
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{start} is {kind_of(found.st_mode)}, expected a regular file; {fix}")
    if most is not None and found.st_size > most:
        raise UsageError(f"{start} has {amount(found.st_size)}, and at most {amount(most)} are read; {fix}")
    return path


def kind_of(mode: int) -> str:
    """Return what a file that is not regular is, such as `a pipe`; `mode` is that of its status."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")


def read_bytes(path: Path, what: str, *, fix: str, absent: str | None = None, most: int) -> bytes:
    """Return the content of a regular file; arguments and errors as in `regular`."""
    try:
        return regular(path, what, fix=fix, absent=absent, most=most).read_bytes()
    except OSError as error:
        start = f"{what}: {shown(path)}" if what else shown(path)
        raise UsageError(f"{start} cannot be read ({reason_of(error)}); {fix}") from None


def is_regular(path: Path) -> bool:
    """Return whether the path leads to a regular file; False for a path that is not valid."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether the path leads to a folder; False for a path that is not valid."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def shown(path: str | os.PathLike[str], longest: int = 200) -> str:
    """Return a path or another text of the user's for a message.

    Args:
        path: The path or text.
        longest: Most characters; the middle of a longer text is left out.

    Returns:
        The text in one line, without control characters; as a Python literal if it has any.
    """
    text = os.fspath(path)
    return _cut(text if text.isprintable() else repr(text), longest)


def quoted(path: str | os.PathLike[str], longest: int = 200) -> str:
    """Return the text as `shown` does, but always in quotes."""
    return _cut(repr(os.fspath(path)), longest)


def _cut(text: str, longest: int) -> str:
    """Return the text, without its middle if it has more than `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-(longest // 2) :]}"


def reason_of(error: BaseException) -> str:
    """Return the first line of an exception's message, or the exception's type if it has no message."""
    text = getattr(error, "strerror", None) or str(error).strip()
    return shown(text.partition("\n")[0]) if text else type(error).__name__


def amount(size: int) -> str:
    """Return a number of bytes as text, such as `1.6 MiB`."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", MIB), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}".replace(".0 ", " ")
    return f"{size} bytes"


PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
"""Permissions of a file that only its owner may read and write, and of a folder into which only its owner may look."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag


def make_folder(path: Path, *, private: bool = False) -> None:
    """Create a folder, and those above it that are missing; when this returns, their names are on the disk.

    Args:
        path: The folder; one that exists is left as it is.
        private: Only its owner may look into the folder, if it is created.

    Raises:
        OSError: The folder cannot be created, or a file has this name.
    """
    if not path.is_dir():
        if not path.parent.is_dir():
            make_folder(path.parent)
        path.mkdir(mode=PRIVATE_FOLDER if private else 0o777, exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names of a folder's entries on the disk: after a power cut, a file whose name is not there is lost."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open folders
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_whole(path: Path, content: bytes | memoryview, *, private: bool = False) -> None:
    """Write or replace a file; when this returns, the content and the name are on the disk.

    The content is written to a new file in the same folder, which is then renamed. So a reader never sees a part of a
    file, and two processes that write the same file do not mix their contents.

    Args:
        path: The file.
        content: What it will hold.
        private: Only its owner may read and write the file.

    Raises:
        OSError: The disk is full or the folder cannot be written; the file did not change.
    """
    write_several(path.parent, {path.name: content}, private=private)


def write_several(folder: Path, contents: Mapping[str, bytes | memoryview], *, private: bool = False) -> None:
    """Write files of one folder as `write_whole` does; one after the other, but their names are synced together.

    Args:
        folder: The folder, which exists.
        contents: Name of each file -> what it will hold.
        private: Only their owner may read and write the files.

    Raises:
        OSError: The disk is full or the folder cannot be written; each file is the old or the new one.
    """
    for name, content in contents.items():
        part = folder / f"{secrets.token_hex(8)}.part"
        try:
            with open(part, "xb", opener=partial(os.open, mode=PRIVATE if private else 0o666)) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(folder / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    sync_folder(folder)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet.

    Raises:
        FileExistsError: A file or folder has this name; it does not change.
        OSError: The disk is full or the folder cannot be written.
    """
    with path.open("xb") as file:
        file.write(content)


def append_whole(path: Path, line: bytes, *, create: bool = True) -> None:
    """Append a line to a file; when this returns, the line is on the disk.

    Args:
        path: The file; not a symbolic link.
        line: The line, with its end.
        create: Create the file if it is missing.

    Raises:
        FileNotFoundError: The file is missing, and must not be created.
        OSError: The file cannot be written, or the disk is full; then a part of the line may be in the file.
    """

    def opened(name: str, flags: int) -> int:
        return os.open(name, (flags if create else flags & ~os.O_CREAT) | _NO_LINK, 0o666)

    is_new = create and not path.exists()
    # Unbuffered, so that one system call writes the whole line.
    with open(path, "ab", buffering=0, opener=opened) as file:
        written = file.write(line)
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)
    if written != len(line):
        raise OSError(None, "the disk took only a part of the line")
