"""Who ran an audit, when and with which command: `runs.json` of a results folder, which a report shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

NAME = "runs.json"
LARGEST = 2**20  # of runs.json, bytes


@dataclass(frozen=True, kw_only=True)
class Run:
    """One start of an audit into a results folder.

    Args:
        command: The command; empty if it was run from Python.
        date: The day, as in 2026-11-30.
        author: Who answers for the audit, in the words of whoever ran it; empty if nobody was named.
    """

    command: str
    date: str
    author: str = ""


def encoded(runs: Sequence[Run]) -> bytes:
    """The content of `runs.json`; what of a command is no UTF-8 is written as an escape."""
    texts = [
        {key: value.encode(errors="backslashreplace").decode() for key, value in asdict(run).items()} for run in runs
    ]
    return (json.dumps(texts, indent=2, ensure_ascii=False) + "\n").encode()


def decoded(content: bytes) -> list[Run]:
    """The runs of a file, which may come from somebody else.

    Raises:
        ValueError: It holds no runs.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(list[Run]).validate_json(content)
