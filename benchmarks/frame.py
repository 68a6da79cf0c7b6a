"""What a benchmark is: cases, how one is run, and the tables that are made of all results."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
README, DOCS = ROOT / "README.md", ROOT / "docs"

RESEARCH_WEIGHTS = ROOT / "research-weights" / "unveil_research_weights"
os.environ.setdefault("UNVEIL_WEIGHTS", str(RESEARCH_WEIGHTS))  # enhancers that are not in the package

Case = Any
"""A frozen value whose `str` is its key in the results."""

Result = Any
"""What a run of a case gave: plain JSON."""

Results = Mapping[str, Result]
"""Key of a case -> its result."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where what is not part of the repository lies.

    Args:
        data: Folder of the research pictures; `UNVEIL_DATA` by default.
        anchor: Folder of the published batch; `UNVEIL_ANCHOR` by default.
        audit: A results folder, for benchmarks that are audits.
    """

    data: Path = Path(os.environ.get("UNVEIL_DATA", SHARED / "data"))
    anchor: Path = Path(os.environ.get("UNVEIL_ANCHOR", SHARED / "anchors" / "rog"))
    audit: Path | None = None

    @property
    def no_pictures(self) -> str:
        """Why research pictures cannot be read; empty if they can."""
        return "" if (self.data / "load.py").is_file() else "the pictures are not here; name their folder with --data"

    @property
    def no_batch(self) -> str:
        """Why the published batch cannot be read; empty if it can."""
        there = (self.anchor / "anchor.json").is_file()
        return "" if there else "the published batch is not here; name its folder with --anchor"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A table in a page, between `<!-- marker:begin -->` and `<!-- marker:end -->`.

    Args:
        page: The Markdown file.
        marker: Name of the block there.
        table: Results -> the block's text, with a line break at its end.
    """

    page: Path
    marker: str
    table: Callable[[Results], str]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One thing that is measured.

    Args:
        name: Its name on the command line and of its file of results.
        title: What it measures, one sentence.
        cases: () -> its cases, in the order in which they are run.
        run: One case -> its result.
        blocks: Tables that are made of the results.
        missing: Why a case cannot be run here; an empty string if it can.
        apart: Whether each case is run in a process of its own, so that peak memory and caches are its own.
        minutes: How long all cases take on two cores, roughly.
    """

    name: str
    title: str
    cases: Callable[[], Sequence[Case]]
    run: Callable[[Case, Places], Result]
    blocks: Sequence[Block] = ()
    missing: Callable[[Case, Places], str] = lambda case, places: ""
    apart: bool = False
    minutes: float
