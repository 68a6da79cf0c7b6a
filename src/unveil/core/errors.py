"""The exception for users: its message says what is wrong, what was expected, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UsageError(ValueError):
    """Raised for input that cannot be used; the message is one sentence that ends in the fix, the exit code is 2."""


class UnattackableError(UsageError):
    """Raised for an update that is all zeros, or that holds NaN or infinite values."""


def nearest(word: str, known: list[str]) -> str:
    """Return `did you mean 'x'?` with the closest known word, or a list of all known words if none is close."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


def printable(text: str, keep: str = "\n") -> str:
    """Write characters that a terminal would obey instead of showing, such as the start of an escape, as `\\x1b`.

    Texts of results, weights and audit files of other people could otherwise rewrite what the terminal shows.

    Args:
        text: Any text.
        keep: Control characters that stay as they are.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Return the text as `printable` does, in one line."""
    return printable(text, keep="")


@contextmanager
def writing(folder: Path, option: str) -> Iterator[None]:
    """Turn an error of writing files inside the `with` block into a `UsageError`.

    Args:
        folder: The folder, which the message names.
        option: The option of the command line with which the user can name another folder.
    """
    try:
        yield
    except UsageError:
        raise
    except (OSError, ValueError) as error:  # the latter if a path has a null, or half of a surrogate pair
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot write to {folder}: {reason}; free the disk, or choose another folder with {option}"
        ) from None
