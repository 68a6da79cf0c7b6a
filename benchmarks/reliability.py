"""What survives kills, power cuts, hostile files and folders, and texts that are no settings.

Each case is a campaign of a size of its own; the tests run tiny ones. `benchmarks/hostile/` has what is tried.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.hostile import files, kills, power_cuts, strange_texts


@dataclass(frozen=True)
class Campaign:
    """One thing that is tried again and again.

    Args:
        name: Its key in the results.
        title: What is tried, for the table.
        run: An empty folder -> what came of it.
        says: What came of it -> a sentence for the table.
    """

    name: str
    title: str
    run: Callable[[Path], Result]
    says: Callable[[Mapping[str, Any]], str]

    def __str__(self) -> str:
        return self.name


KILLS, CUTS, SPECS, AUDIT_FILES = 50, 20, 10_000, 3_000
EVERY = 2
"""Of the hostile files and folders, one of this many is tried."""


def _kills(result: Mapping[str, Any]) -> str:
    signals = ", ".join(f"{result[name]} {name}" for name in ("SIGKILL", "SIGTERM", "SIGINT"))
    return (
        f"{signals}; {result['at random']} at random times, {result['at writes']} before a chosen sync or rename; "
        f"{result['audits']} audits, started again until they ended"
    )


def _cuts(result: Mapping[str, Any]) -> str:
    return (
        f"at moments among the {result['syncs']} syncs of an audit; {result['finished before']} trials were finished "
        "before"
    )


def _files(result: Mapping[str, Any]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(result["cases"].items()))
    (seconds, slow), (mib, large) = result["slowest"], result["largest"]
    return f"{kinds}; at most {seconds:g} s of processor time ({slow}) and {mib:g} MiB above the size ({large})"


def _texts(result: Mapping[str, Any]) -> str:
    return f"{result.get('refused', 0):,} refused in a sentence, {result.get('used', 0):,} used"


CAMPAIGNS = (
    Campaign("kills", "kills of an audit", lambda folder: kills.run(folder, kills=KILLS), _kills),
    Campaign("power cuts", "power cuts during an audit", lambda folder: power_cuts.run(folder, cuts=CUTS), _cuts),
    Campaign("files", "hostile files and folders", lambda folder: files.run(folder, every=EVERY), _files),
    Campaign("SPECs", "strange SPECs", lambda folder: strange_texts.specs(count=SPECS), _texts),
    Campaign(
        "audit files",
        "strange audit files",
        lambda folder: strange_texts.audit_files(folder, count=AUDIT_FILES),
        _texts,
    ),
)


def run(campaign: Campaign, places: Places) -> Result:
    """Run a campaign in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "campaign"
        place.mkdir()
        return campaign.run(place)


def tried(name: str, result: Mapping[str, Any]) -> int:
    """How often something was tried."""
    counts = {"kills": ("SIGKILL", "SIGTERM", "SIGINT"), "power cuts": ("cuts",)}.get(name, ("texts",))
    return sum(result["cases"].values()) if name == "files" else sum(result[key] for key in counts)


def table(results: Results) -> str:
    """A row a campaign; what went wrong is listed below the table."""
    rows = ["| tried | times | went wrong | what came of it |", "|---|---|---|---|"]
    below: list[str] = []
    for campaign in CAMPAIGNS:
        if campaign.name not in results:
            continue
        result = results[campaign.name]
        wrong = len(result["wrong"])
        rows.append(f"| {campaign.title} | {tried(campaign.name, result):,} | {wrong} | {campaign.says(result)} |")
        below += [f"- {campaign.title}: {what}" for what in result["wrong"]]
    return "\n".join([*rows, *(["", *below] if below else [])]) + "\n"


BENCHMARK = Benchmark(
    name="reliability",
    title="what survives kills, power cuts, hostile files and strange settings",
    cases=lambda: CAMPAIGNS,
    run=run,
    minutes=30,
    blocks=(Block(page=DOCS / "reliability.md", marker="reliability", table=table),),
)
