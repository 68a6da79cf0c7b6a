"""One section of the report: what it shows of one client, training, attack, enhancer and threat model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from unveil.core.metric import MetricFacts
from unveil.metrics import FACTS, facts_of
from unveil.report.charts import legend
from unveil.report.leakage_chart import LeakageChart, leakage_chart
from unveil.report.loss_chart import loss_chart
from unveil.report.rows import Row
from unveil.report.significance import NO_UPDATE
from unveil.report.wall import Strip, bands

ALWAYS = {"psnr", "ssim", "ssim_global", "correlation", "lpips"}
"""Metrics that the first table shows; a table of all metrics appears only if there are others."""


@dataclass(frozen=True)
class Section:
    """The part of the page about one client, training, attack, enhancer and threat model.

    Args:
        anchor: Its name in links.
        rows: Its rows, the baseline first.
        perceptual: Whether LPIPS was measured.
        metrics: The metrics of the table of all metrics; none if the first table shows all of them.
        controls: Names of the controls that were run.
        bands: The wall of pictures.
        leakage, losses: Its charts; None and empty where there is nothing to draw.
        legend: Family, outline and name of each marker.
        won_blindly: Headings of metrics that are left out, because a blind guess wins in them.
        shared: What weakens every verdict -> how it is said once.
        common: What the attacker was granted in all rows.
        own: What the attacker was granted in a row alone.
    """

    anchor: str
    rows: Sequence[Row]
    perceptual: bool
    metrics: Sequence[tuple[str, MetricFacts]]
    controls: Sequence[str]
    bands: Sequence[Sequence[Strip]]
    leakage: LeakageChart | None
    losses: Markup
    legend: Sequence[tuple[str, str, str]]
    won_blindly: Sequence[str]
    shared: Mapping[str, str]
    common: Sequence[str]
    own: Sequence[tuple[Row, Sequence[str]]]

    @property
    def has_flat(self) -> bool:
        """Whether the wall shows a reconstruction of nearly one colour."""
        strips = [strip for band in self.bands for strip in band if strip.row is not None]
        return any(picture.is_flat for strip in strips for picture in strip.pictures)


def section(folder: Path, index: int, rows: list[Row]) -> Section:
    """The section of these rows, number `index` of the page, with pictures from the results folder."""
    common = [text for text in rows[0].assumptions if all(text in row.assumptions for row in rows)]
    own = [(row, [text for text in row.assumptions if text not in common]) for row in rows]
    return Section(
        anchor=f"section-{index}",
        rows=rows,
        perceptual=any("lpips" in row.scores for row in rows),
        metrics=_metrics(rows),
        controls=_controls(rows),
        bands=bands(folder, rows),
        leakage=leakage_chart(rows),
        losses=Markup(loss_chart(rows)),
        legend=legend(rows),
        won_blindly=[facts_of(name).heading for name in _won_blindly(rows)],
        shared=_shared(rows),
        common=common,
        own=[(row, texts) for row, texts in own if texts],
    )


def _shared(rows: Sequence[Row]) -> dict[str, str]:
    """What weakens every verdict of a section, or each but the baseline's -> how it is said once.

    Nothing is shared where there is a single row.
    """
    said = {place: [*row.verdict.caveats, *row.notes] for place, row in enumerate(rows)}
    tested = [sentences for place, sentences in said.items() if not rows[place].is_baseline]
    if len(tested) < 2:
        tested = list(said.values())
    if len(tested) < 2:
        return {}
    shared = [sentence for sentence in tested[0] if all(sentence in others for others in tested)]
    everywhere = [sentence for sentence in shared if all(sentence in others for others in said.values())]
    return {text: text if text in everywhere else f"Of all but the baseline: {text}" for text in shared}


def _won_blindly(rows: Sequence[Row]) -> list[str]:
    """Metrics in which a grey picture already counts as found in most cases, so that they tell nothing."""
    found = {
        name: max(row.scores[name].blind or 0.0 for row in rows if name in row.scores)
        for name in dict.fromkeys(name for row in rows for name in row.scores)
        if facts_of(name).is_rate and facts_of(name).leak == "high"
    }
    return [name for name, blind in found.items() if blind > 0.5]


def best_control(row: Row, name: str) -> float | None:
    """What the best of the controls scores in a metric, in its unit; None where no control was run."""
    if name not in row.scores:
        return None
    values = [contrast.value for contrast in row.scores[name].contrasts if contrast.control != NO_UPDATE]
    return (max if facts_of(name).leak == "high" else min)(values, default=None)


def _metrics(rows: Sequence[Row]) -> list[tuple[str, MetricFacts]]:
    """The measured metrics in the report's order; none where the first table shows all of them."""
    blindly = _won_blindly(rows)
    found = dict.fromkeys(name for row in rows for name in row.scores if name not in blindly)
    known = [name for name in FACTS if name in found]
    names = [*known, *(name for name in found if name not in FACTS)]
    needs_table = set(names) - ALWAYS or any(row.above for row in rows)
    return [(name, facts_of(name)) for name in names] if needs_table else []


def _controls(rows: Sequence[Row]) -> list[str]:
    found = (contrast.control for row in rows for score in row.scores.values() for contrast in score.contrasts)
    return [name for name in dict.fromkeys(found) if name != NO_UPDATE]
