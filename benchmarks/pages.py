"""Tables in pages: filled in from results, and compared with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.frame import Benchmark, Block, Results
from benchmarks.store import Store


def lines(table: Callable[[Results], Iterator[str]]) -> Callable[[Results], str]:
    """A table given line by line as one text."""
    return lambda results: "".join(f"{line}\n" for line in table(results))


def filled(page: str, marker: str, text: str) -> str:
    """The page with the text between its markers.

    Raises:
        ValueError: The page has no such markers, or has them twice.
    """
    pattern = rf"(<!-- {re.escape(marker)}:begin -->\n).*?(<!-- {re.escape(marker)}:end -->)"
    page, count = re.subn(pattern, lambda m: m[1] + text + m[2], page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"expected the markers of {marker} once, found them {count} times")
    return page


def updated(block: Block, store: Store) -> str:
    """The block's page as its results have it."""
    return filled(block.page.read_text(encoding="utf-8"), block.marker, block.table(store.results))


def stale(benchmark: Benchmark) -> Iterator[tuple[Path, str]]:
    """Page and marker of each block that is not what its results say."""
    store = Store(benchmark.name)
    for block in benchmark.blocks:
        if updated(block, store) != block.page.read_text(encoding="utf-8"):
            yield block.page, block.marker
