"""The pictures of a report: the wall of originals and reconstructions, and the examples that explain numbers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unveil.core.errors import UsageError
from unveil.core.files import MIB
from unveil.core.inside import read_inside
from unveil.metrics import facts_of
from unveil.report.criteria import without_originals
from unveil.report.decibels import Step, along_the_scale
from unveil.report.flat import is_flat
from unveil.report.metric_agreement import Agreement, Overlooked
from unveil.report.rows import Picture, Row
from unveil.report.thumbnail import thumbnail

BAND = 8
"""Pictures in a row of the wall; the originals are repeated above each band, so that every pair is close."""

WALL = 32
"""Most pictures of a batch that the page shows; scores are means over all pictures."""

PICTURE = 96 * MIB  # largest picture file that is read for the page


@dataclass(frozen=True)
class Shown:
    """A picture in the page.

    Args:
        uri: The data URI; None where the file is missing.
        alt: The alternative text.
        caption: The text below it.
        coarse: Whether it is small enough to be enlarged without smoothing.
        scores: The text that a pointer over the picture shows.
        is_flat: Whether it has nearly one colour.
    """

    uri: str | None
    alt: str
    caption: str
    coarse: bool
    scores: str = ""
    is_flat: bool = False


@dataclass(frozen=True)
class Strip:
    """A line of pictures.

    Args:
        name: What the line is called.
        row: The row of the pictures; None for originals.
        pictures: The pictures, in the order of the band.
        is_result: Whether they are the row's reconstructions.
    """

    name: str
    row: Row | None
    pictures: Sequence[Shown]
    is_result: bool = False


def examples(folder: Path, rows: Sequence[Row]) -> list[tuple[Step, Shown, Shown]]:
    """Pictures from the lowest to the highest score, each beside its original; none where files are missing."""
    shown = []
    for step in along_the_scale(rows):
        original = _shown(folder, step.picture.original, f"example: original {step.picture.position + 1}")
        rebuilt = _shown(folder, step.picture.rebuilt, f"example: the same, rebuilt, {step.psnr:.1f} dB")
        if original.uri and rebuilt.uri:
            shown.append((step, original, rebuilt))
    return shown


def looked_at(folder: Path, found: Agreement | None) -> list[tuple[Overlooked, Shown, Shown]]:
    """The overlooked pictures, each beside its original; none where files are missing."""
    shown = []
    for leak in found.overlooked if found else ():
        picture = leak.picture
        original = _shown(folder, picture.original, f"original {picture.position + 1} of {leak.row.client}")
        rebuilt = _shown(folder, picture.rebuilt, f"the same rebuilt through {leak.row.obfuscation}")
        if original.uri and rebuilt.uri:
            shown.append((leak, original, replace(rebuilt, scores=_own_scores(picture))))
    return shown


def bands(folder: Path, rows: list[Row]) -> list[list[Strip]]:
    """The picture wall: originals, and below them the reconstructions behind each obfuscation."""
    size = min(max((len(row.first) for row in rows), default=0), WALL)
    longest = max((row.first for row in rows), key=len)
    order = _worst_first(rows, len(longest))[:size]
    found = []
    for start in range(0, size, BAND):
        part = order[start : start + BAND]
        originals = [longest[i] for i in part]
        named = [_shown(folder, p.original, f"original {p.position + 1}", str(p.position + 1)) for p in originals]
        strips = [Strip("Original", None, named)] if any(p.original for p in originals) else []
        alone = [_drawn_alone(folder, row, part) for row in rows]
        # Inferred labels differ between obfuscations, and so do the pictures drawn from them.
        is_same = len({tuple(shown.uri for shown in drawn) for drawn in alone}) == 1
        for row, drawn in zip(rows, alone, strict=True):
            there = [row.first[i] for i in part if i < len(row.first)]
            rebuilt = [_rebuilt(folder, p, row) for p in there]
            strips.append(Strip(row.obfuscation, row, rebuilt, is_result=True))
            before = [_rebuilt(folder, p.unenhanced, row) for p in there if p.unenhanced is not None]
            if before:
                strips.append(Strip("before the enhancer", row, before))
            if drawn and not is_same:
                strips.append(Strip("prior only", row, drawn))
        if alone[0] and is_same:
            strips.append(Strip("Prior only, no update", None, alone[0]))
        found.append(strips)
    return found if any(p.uri for band in found for strip in band for p in strip.pictures) else []


def _drawn_alone(folder: Path, row: Row, part: Sequence[int]) -> list[Shown]:
    """The pictures that the enhancer drew from the labels alone; empty where it uses no labels."""
    there = [row.first[i] for i in part if i < len(row.first)]
    drawn = [p for p in there if p.prior_only]
    return [_shown(folder, p.prior_only, f"picture {p.position + 1} drawn from its label alone") for p in drawn]


def _rebuilt(folder: Path, picture: Picture, row: Row) -> Shown:
    alt = f"picture {picture.position + 1} rebuilt through {row.obfuscation}"
    caption = "" if picture.psnr is None else f"{picture.psnr:.1f}"
    alt += caption and f", {caption} dB"
    if without_originals(row) and picture.confidence is not None:
        caption = f"{picture.confidence:.2g}"
    shown = _shown(folder, picture.rebuilt, alt, caption)
    return replace(shown, scores=_own_scores(picture), is_flat=shown.is_flat and not _is_plain(folder, picture))


def _is_plain(folder: Path, picture: Picture) -> bool:
    """Whether the original itself is flat, so that a flat picture is what came back."""
    return _shown(folder, picture.original, "").is_flat


def _worst_first(rows: Sequence[Row], count: int) -> list[int]:
    """Positions in the batch by falling PSNR, or confidence, mean over the obfuscations: the worst leak first."""

    def came_back(position: int) -> float:
        there = [row.first[position] for row in rows if position < len(row.first)]
        values = [picture.confidence if picture.psnr is None else picture.psnr for picture in there]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else 0.0

    return sorted(range(count), key=came_back, reverse=True)


def _own_scores(picture: Picture) -> str:
    """The scores of one picture, one line each."""
    lines = [f"{facts_of(name).heading}: {value:.{facts_of(name).digits}f}" for name, value in picture.scores.items()]
    return "\n".join([f"Picture {picture.position + 1}, seed {picture.seed}", *lines])


def _shown(folder: Path, path: str, alt: str, caption: str = "") -> Shown:
    """One embedded PNG, made smaller if it is large; another file type, and a file outside, counts as missing."""
    content = thumbnail(content_of(folder, path, PICTURE))
    if not content:
        return Shown(None, alt, caption, False)
    width = int.from_bytes(content[16:20], "big")
    uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return Shown(uri, alt, caption, coarse=width <= 128, is_flat=is_flat(content))


def content_of(folder: Path, path: str, most: int) -> bytes:
    """The content of a file of the folder; empty if it is missing, over `most` bytes, no regular file, or outside."""
    try:
        return read_inside(folder, path, most=most, fix="") if path else b""
    except UsageError:
        return b""
