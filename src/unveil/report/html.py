"""The report as one self-contained HTML file: no script, and no font, picture or style from another file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from unveil.core.circumstances import differing, used
from unveil.core.errors import UsageError
from unveil.core.files import MIB, write_whole
from unveil.core.foreign_settings import NAME as SETTINGS
from unveil.core.records import Trial
from unveil.core.runs import LARGEST, Run, decoded
from unveil.core.runs import NAME as RUNS
from unveil.metrics import facts_of
from unveil.report import formatting, guarantees
from unveil.report.attribution import attribution_charts
from unveil.report.bounds import refuse_contradictions
from unveil.report.cohorts import cohort_charts
from unveil.report.conclusion import NOT_PROVED, headline, recommendation
from unveil.report.criteria import without_originals
from unveil.report.decibels import meaning
from unveil.report.kept_back import kept_back
from unveil.report.levels import Level
from unveil.report.masthead import facts
from unveil.report.metric_agreement import agreement
from unveil.report.notice import notice
from unveil.report.pooling import summarise
from unveil.report.rate_leakage import rate_leakage
from unveil.report.rounds import rounds_charts
from unveil.report.rows import Row
from unveil.report.section import best_control, section
from unveil.report.significance import ALPHA
from unveil.report.templates import environment
from unveil.report.threat_models import threat_model_charts
from unveil.report.wall import WALL, content_of, examples, looked_at
from unveil.report.worst import has_overview, worst_rows

NAME = "report.html"
TEMPLATE = "report.html.j2"
SHOWN = 4 * MIB  # largest settings file that the page shows


def write_report(
    folder: Path,
    trials: Sequence[Trial],
    *,
    reproduce: str = "",
    settings: str = "",
    rows: Sequence[Row] | None = None,
) -> Path:
    """Write `report.html` into the results folder, whole or not at all, and return its path.

    Args:
        folder: The results folder; paths of pictures are relative to it.
        trials: The trials to report; an audit need not be finished.
        reproduce: The command that ran the audit, shown to the reader; if empty, those that the folder knows of.
        settings: The resolved settings as text; if empty, the folder's `audit.json` is shown where there is one.
        rows: What `summarise` makes of the trials, where it is at hand; thousands of trials take seconds.

    Raises:
        UsageError: The folder cannot be written, or trials of the same settings do not fit one another.
        ContradictionError: An attack found more than theory allows; the report has been written all the same.
    """
    runs = _kept_runs(folder)
    reproduce = reproduce or "\n".join(dict.fromkeys(run.command for run in runs if run.command))
    settings = settings or _kept_settings(folder)
    page = render(folder, trials, reproduce=reproduce, settings=settings, runs=runs, rows=rows)
    try:
        content = page.encode(errors="backslashreplace")  # a command line need not be UTF-8
        write_whole(folder / NAME, content, private=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {folder / NAME}: {error.strerror or error}; make {folder} a folder that can be written"
        ) from None
    refuse_contradictions(summarise([trial for trial in trials if trial.privacy and trial.chance]))
    return folder / NAME


def render(
    folder: Path,
    trials: Sequence[Trial],
    *,
    reproduce: str = "",
    settings: str = "",
    runs: Sequence[Run] = (),
    rows: Sequence[Row] | None = None,
) -> str:
    """The page as HTML text; arguments as in `write_report`, and the runs of the audit for dates and authors."""
    rows = summarise(trials) if rows is None else rows
    # With an enhancer each trial has two outcomes: only one may count, or every picture would count twice.
    agreed = agreement([row for row in rows if row.enhancer] or rows)
    short, _, lead = headline(rows).partition(". ")
    short += "." if lead else ""
    sections = [list(members) for _, members in groupby(rows, key=lambda row: row.section)]
    places = {members[0].section: index for index, members in enumerate(sections, start=1)}
    pages = environment("report")
    pages.filters.update(
        bits=formatting.bits,
        ratio=formatting.ratio,
        seconds=formatting.seconds,
        bounds=formatting.bounds,
    )
    pages.globals.update(
        facts_of=facts_of,
        best_control=best_control,
        without_originals=without_originals,
        enhanced=any(row.enhancer for row in rows),
        guarantees=guarantees,
    )
    return pages.get_template(TEMPLATE).render(
        headline=short,
        lead=lead,
        title=formatting.plain(short),
        decibels=meaning(rows),
        examples=examples(folder, rows),
        recommendation=recommendation(rows),
        facts=facts(rows, trials, runs),
        worst=[(row, f"section-{places[row.section]}") for row in worst_rows(rows)] if has_overview(rows) else [],
        threat_model_charts=threat_model_charts(rows),
        cohort_charts=cohort_charts(rows),
        rounds_charts=rounds_charts(rows),
        kept_back=(layer_choices := kept_back(rows)),
        attribution=attribution_charts(layer_choices),
        rate_leakage=rate_leakage(rows),
        agreement=agreed,
        overlooked=looked_at(folder, agreed),
        sections=[section(folder, index, members) for index, members in enumerate(sections, start=1)],
        levels=list(Level),
        not_proved=NOT_PROVED,
        notice=notice(trials),
        reproduce=reproduce,
        settings=settings,
        versions=[(name, ", ".join(values)) for name, values in used(trial.versions for trial in trials).items()],
        differing=differing(trial.versions for trial in trials),
        wall=WALL,
        alpha=ALPHA,
    )


def _kept_runs(folder: Path) -> list[Run]:
    """The runs that the folder knows of; none where its file is missing or damaged."""
    try:
        return decoded(content_of(folder, RUNS, LARGEST))
    except ValueError:
        return []


def _kept_settings(folder: Path) -> str:
    try:
        return content_of(folder, SETTINGS, SHOWN).decode().strip()
    except UnicodeDecodeError:
        return ""
