"""Where an obfuscation stands in an audit file, for tools that show findings beside the code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

LITERAL = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")
LIST = re.compile(r"\s*[\"']?obfuscations[\"']?\s*=")
THEN = ", then "
"""What stands between a training with noise and an obfuscation in the name of a row."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place in a file.

    Args:
        uri: The file as a URI, percent-encoded.
        is_relative: Whether the URI is relative to the folder in which the gate runs.
        line: The line, from 1; None for the file as a whole.
    """

    uri: str
    is_relative: bool
    line: int | None = None


def located(place: Place, text: str, obfuscation: str, canonical: Callable[[str], str]) -> Place:
    """The place of an obfuscation in an audit file: its line, else that of the list, else the file.

    Args:
        place: The audit file.
        text: Its content.
        obfuscation: The obfuscation as rows name it.
        canonical: From a SPEC as a user writes it to the same as results have it.
    """
    literals = list(_literals(text))
    for wanted in reversed(obfuscation.split(THEN)):
        for number, literal in literals:
            if literal == wanted or canonical(literal) == wanted:
                return replace(place, line=number)
    for number, line in enumerate(text.split("\n"), start=1):
        if LIST.match(line):
            return replace(place, line=number)
    return place


def _literals(text: str) -> Iterator[tuple[int, str]]:
    """Line and content of every string of one line, outside comments that fill a line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.lstrip().startswith("#"):
            for found in LITERAL.finditer(line):
                yield number, found[1] if found[1] is not None else found[2]
