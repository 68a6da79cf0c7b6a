"""The one exception a user is meant to read: what is wrong, what was expected, and what to do about it."""

from __future__ import annotations


class UsageError(ValueError):
    """Input that cannot be used. Its message is one sentence that ends in the fix; exit code 2."""


def nearest(word: str, known: list[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, else the whole list of known words."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
