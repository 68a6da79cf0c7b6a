"""The one exception a user is meant to read: what is wrong, what was expected, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UsageError(ValueError):
    """Input that cannot be used. Its message is one sentence that ends in the fix; exit code 2."""


def nearest(word: str, known: list[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, else the whole list of known words."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


def one_line(text: str) -> str:
    """A message without control characters, whatever names of the user's it repeats: they could rewrite a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def writing(folder: Path, option: str) -> Iterator[None]:
    """Files that cannot be written inside it: a `UsageError` that names the folder and the option for another."""
    try:
        yield
    except UsageError:
        raise
    except (OSError, UnicodeEncodeError) as error:  # the latter: a path with half a character
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot write to {folder}: {reason}; free the disk, or choose another folder with {option}"
        ) from None
