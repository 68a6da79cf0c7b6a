"""The report as one self-contained HTML file: no script, and no font, picture or style from another file."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from unveil.core.errors import UsageError
from unveil.core.files import MIB, write_whole
from unveil.core.inside import read_inside
from unveil.core.metric import MetricFacts
from unveil.core.records import Trial
from unveil.metrics import FACTS, facts_of
from unveil.report import formatting
from unveil.report.charts import legend
from unveil.report.conclusion import NOT_PROVED, headline, recommendation
from unveil.report.criteria import without_originals
from unveil.report.decibels import Step, ladder, meaning
from unveil.report.leakage_chart import LeakageChart, leakage_chart
from unveil.report.levels import Level
from unveil.report.loss_chart import loss_chart
from unveil.report.metric_agreement import Agreement, Overlooked, agreement
from unveil.report.notice import notice
from unveil.report.pooling import summarise
from unveil.report.rate_leakage import rate_leakage
from unveil.report.rows import Picture, Row
from unveil.report.significance import ALPHA, NO_UPDATE
from unveil.report.threat_models import threat_model_charts

NAME = "report.html"
SETTINGS = "audit.json"
TEMPLATE = "report.html.j2"
BAND = 8
"""Pictures in a row of the wall; the originals are repeated above each band, so that every pair is close."""

WALL = 32
"""Most pictures of a batch that the page shows; scores are means over all pictures."""

ALWAYS = {"psnr", "ssim", "ssim_global", "correlation", "lpips"}
"""Metrics that the first table shows; a table of all metrics appears only if there are others."""

SOURCES = {"builtin": "those built into unveil, which are public", "given": "given in Python"}
"""How the head of the page writes a source of pictures that is no folder."""

PICTURE, SHOWN = 32 * MIB, 4 * MIB  # largest picture file and settings file that the page embeds
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Shown:
    """A picture in the page.

    Args:
        uri: The data URI; None where the file is missing.
        alt: The alternative text.
        caption: The text below it.
        coarse: Whether it is small enough to be enlarged without smoothing.
        scores: The text that a pointer over the picture shows.
    """

    uri: str | None
    alt: str
    caption: str
    coarse: bool
    scores: str = ""


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


@dataclass(frozen=True)
class Section:
    """The part of the page about one client, training, attack, enhancer and threat model."""

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
    shared: Sequence[str]
    common: Sequence[str]
    own: Sequence[tuple[Row, Sequence[str]]]


def write_report(folder: Path, trials: Sequence[Trial], *, reproduce: str = "", settings: str = "") -> Path:
    """Write `report.html` into the results folder, whole or not at all.

    Args:
        folder: The results folder; paths of pictures are relative to it.
        trials: The trials to report; an audit need not be finished.
        reproduce: The command that ran the audit, shown to the reader.
        settings: The resolved settings as text; if empty, the folder's `audit.json` is shown where there is one.

    Returns:
        The path of the report.

    Raises:
        UsageError: The folder cannot be written, or trials of the same settings do not fit one another.
    """
    page = render(folder, trials, reproduce=reproduce, settings=settings or _kept_settings(folder))
    try:
        content = page.encode(errors="backslashreplace")  # a command line need not be UTF-8
        write_whole(folder / NAME, content, private=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {folder / NAME}: {error.strerror or error}; make {folder} a folder that can be written"
        ) from None
    return folder / NAME


def render(folder: Path, trials: Sequence[Trial], *, reproduce: str = "", settings: str = "") -> str:
    """The page as HTML text; arguments as in `write_report`."""
    rows = summarise(trials)
    # With an enhancer each trial has two outcomes: only one may count, or every picture would count twice.
    agreed = agreement([row for row in rows if row.enhancer] or rows)
    short, _, lead = headline(rows).partition(". ")
    short += "." if lead else ""
    sections = [list(members) for _, members in groupby(rows, key=lambda row: row.section)]
    environment = Environment(
        loader=PackageLoader("unveil", "report"),
        autoescape=select_autoescape(enabled_extensions=("html", "html.j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bits=formatting.bits,
        ratio=formatting.ratio,
        seconds=formatting.seconds,
        bounds=formatting.bounds,
        prose=_prose,
        spec=_spec,
    )
    environment.globals.update(
        facts_of=facts_of,
        best_control=best_control,
        without_originals=without_originals,
        enhanced=any(row.enhancer for row in rows),
    )
    return environment.get_template(TEMPLATE).render(
        headline=short,
        lead=lead,
        title=formatting.plain(short),
        decibels=meaning(rows),
        ladder=_ladder(folder, rows),
        recommendation=recommendation(rows),
        facts=_facts(rows, trials),
        threat_model_charts=threat_model_charts(rows),
        rate_leakage=rate_leakage(rows),
        agreement=agreed,
        overlooked=_looked_at(folder, agreed),
        sections=[_section(folder, index, members) for index, members in enumerate(sections, start=1)],
        levels=list(Level),
        not_proved=NOT_PROVED,
        notice=notice(trials),
        reproduce=reproduce,
        settings=settings,
        versions=_versions(trials),
        wall=WALL,
        alpha=ALPHA,
    )


def _ladder(folder: Path, rows: Sequence[Row]) -> list[tuple[Step, Shown, Shown]]:
    """Pictures from the lowest to the highest score, each beside its original; none where files are missing."""
    shown = []
    for step in ladder(rows):
        original = _shown(folder, step.picture.original, f"example: original {step.picture.position + 1}")
        rebuilt = _shown(folder, step.picture.rebuilt, f"example: the same, rebuilt, {step.psnr:.1f} dB")
        if original.uri and rebuilt.uri:
            shown.append((step, original, rebuilt))
    return shown


def _looked_at(folder: Path, found: Agreement | None) -> list[tuple[Overlooked, Shown, Shown]]:
    """The overlooked pictures, each beside its original; none where files are missing."""
    shown = []
    for leak in found.overlooked if found else ():
        picture = leak.picture
        original = _shown(folder, picture.original, f"original {picture.position + 1} of {leak.row.client}")
        rebuilt = _shown(folder, picture.rebuilt, f"the same rebuilt through {leak.row.obfuscation}")
        if original.uri and rebuilt.uri:
            shown.append((leak, original, replace(rebuilt, scores=_own_scores(picture))))
    return shown


def _section(folder: Path, index: int, rows: list[Row]) -> Section:
    common = [text for text in rows[0].assumptions if all(text in row.assumptions for row in rows)]
    own = [(row, [text for text in row.assumptions if text not in common]) for row in rows]
    return Section(
        anchor=f"section-{index}",
        rows=rows,
        perceptual=any("lpips" in row.scores for row in rows),
        metrics=_metrics(rows),
        controls=_controls(rows),
        bands=_bands(folder, rows),
        leakage=leakage_chart(rows),
        losses=Markup(loss_chart(rows)),
        legend=legend(rows),
        won_blindly=[facts_of(name).heading for name in _won_blindly(rows)],
        shared=_shared(rows),
        common=common,
        own=[(row, texts) for row, texts in own if texts],
    )


def _shared(rows: Sequence[Row]) -> list[str]:
    """What weakens every verdict of a section, which is said once; empty for a single row."""
    said = [[*row.verdict.caveats, *row.notes] for row in rows]
    return [sentence for sentence in said[0] if all(sentence in others for others in said)] if len(rows) > 1 else []


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


def _bands(folder: Path, rows: list[Row]) -> list[list[Strip]]:
    """The picture wall: originals, and below them the reconstructions behind each obfuscation."""
    size = min(max((len(row.first) for row in rows), default=0), WALL)
    longest = max((row.first for row in rows), key=len)
    order = _worst_first(rows, len(longest))[:size]
    bands = []
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
        bands.append(strips)
    return bands if any(p.uri for band in bands for strip in band for p in strip.pictures) else []


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
    return replace(_shown(folder, picture.rebuilt, alt, caption), scores=_own_scores(picture))


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
    """One embedded PNG; another file type, and a file outside the folder, counts as missing."""
    content = _own(folder, path, PICTURE)
    if not content.startswith(PNG):
        return Shown(None, alt, caption, False)
    width = int.from_bytes(content[16:20], "big")
    uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return Shown(uri, alt, caption, coarse=width <= 128)


def _facts(rows: Sequence[Row], trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """Names and values for the head of the page."""
    seeds = list(dict.fromkeys(trial.seed for trial in trials))
    tested = {row.obfuscation for row in rows if not row.is_baseline}
    baseline = any(row.is_baseline for row in rows)
    arithmetic = dict.fromkeys(trial.settings.get("arithmetic", "not recorded") for trial in trials)
    sources = dict.fromkeys(SOURCES.get(source, source) for trial in trials if (source := trial.settings.get("images")))
    return [
        ("Pictures", ", ".join(sources) or "not recorded"),
        ("Clients", ", ".join(dict.fromkeys(row.client for row in rows)) or "none"),
        ("Attacks", ", ".join(dict.fromkeys(row.attack for row in rows)) or "none"),
        ("Obfuscations", f"{len(tested)}{' and the baseline without any' if baseline else ', no baseline'}"),
        ("Arithmetic", ", ".join(arithmetic) or "none"),
        ("Trials", f"{len(trials)}, seed{'s' if len(seeds) != 1 else ''} {', '.join(map(str, seeds)) or 'none'}"),
    ]


def _versions(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    found: dict[str, dict[str, None]] = {}
    for trial in trials:
        for package, number in trial.versions.items():
            found.setdefault(package, {})[number] = None
    return [(package, ", ".join(numbers)) for package, numbers in found.items()]


def _kept_settings(folder: Path) -> str:
    try:
        return _own(folder, SETTINGS, SHOWN).decode().strip()
    except UnicodeDecodeError:
        return ""


def _own(folder: Path, path: str, most: int) -> bytes:
    """The content of a file of the folder; empty if it is missing, over `most` bytes, no regular file, or outside."""
    try:
        return read_inside(folder, path, most=most, fix="") if path else b""
    except UsageError:
        return b""


def _spec(text: str) -> Markup:
    """A SPEC in which a line may break after punctuation."""
    return Markup(re.sub(r"([:,+])", r"\1<wbr>", str(escape(text))))


def _prose(text: str) -> Markup:
    """A sentence whose backticks mark names; everything in it is escaped first."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
