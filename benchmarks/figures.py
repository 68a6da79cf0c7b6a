"""Figures that stand in the text: each has a row in docs/figures.md that says where it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.frame import DOCS, README, ROOT

LIST = DOCS / "figures.md"
FIGURE = re.compile(
    r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?: (?:to|or|and) \d+(?:\.\d+)?)? ?(?:dB|%|seconds|minutes|hours|s\b|times)"
)
GENERATED = re.compile(r"<!-- ([\w-]+):begin -->.*?<!-- \1:end -->", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
EXEMPT = {
    "figures.md",
    "glossary.md",
    "notebook.md",
    "results.md",
}  # the notebook's figures are compared when it is run


def figures_of(page: Path) -> list[str]:
    """Numbers with a unit in the text of a page, outside generated tables and code."""
    text = CODE.sub(" ", GENERATED.sub(" ", page.read_text(encoding="utf-8")))
    return [" ".join(found.split()) for found in FIGURE.findall(re.sub(r"\s+", " ", text))]


def listed() -> dict[str, set[str]]:
    """Page -> figures that docs/figures.md has a row for."""
    rows: dict[str, set[str]] = {}
    _, _, text = LIST.read_text(encoding="utf-8").partition("## Figures in the text")
    for page, figures in re.findall(r"^\| ([\w./]+\.md) \| ([^|]+) \|", text, re.MULTILINE):
        rows.setdefault(page, set()).update(figure.strip() for figure in figures.split(";"))
    return rows


def problems() -> Iterator[str]:
    """A sentence for each figure without a row and each row without a figure."""
    rows = listed()
    pages = [README, *(page for page in sorted(DOCS.glob("*.md")) if page.name not in EXEMPT)]
    for page in pages:
        name, found = str(page.relative_to(ROOT)), set(figures_of(page))
        known = rows.pop(name, set())
        yield from (f"{name}: the figure {figure!r} has no row in docs/figures.md" for figure in sorted(found - known))
        yield from (f"docs/figures.md: {name} has no figure {figure!r}" for figure in sorted(known - found))
    yield from (f"docs/figures.md: there is no page {name}" for name in sorted(rows))
