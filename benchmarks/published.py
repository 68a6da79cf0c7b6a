"""The attack and the published presets on the published batch: LeNet, 16 images of 128 px, labels known."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from benchmarks.frame import README, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import measured, published_client

Run = dict[str, Any]
SEEDS = 3


@dataclass(frozen=True)
class Line:
    """One line of the table: what is run, and an earlier or published figure, in dB."""

    attack: str
    obfuscation: str
    target: float | None
    training: str = "fedsgd"
    seeds: int = SEEDS


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of a line."""

    attack: str
    obfuscation: str
    training: str
    seed: int

    def __str__(self) -> str:
        return "; ".join(map(str, astuple(self)))


QSGD16, QSGD2 = "qsgd:levels=16,norm=max", "qsgd:levels=2,norm=max"
STANDARD = (
    Line("unveil", "none", 30.0),
    Line("unveil", QSGD16, 27.0),
    Line("unveil", "qsgd:levels=8,norm=max", 25.5),
    Line("unveil", QSGD2, 20.0),
    Line("unveil", "gaussian:relative=2.5", 22.5),
    Line("unveil", "topk:density=0.05", 22.0),
    Line("unveil", "topk:density=0.01", 16.0),
    Line("unveil", "none", 26.0, training="fedavg:steps=5,lr=0.003"),
    Line("unveil", QSGD16, 24.0, training="fedavg:steps=5,lr=0.003"),
    Line("rog", "none", 22.4),
    Line("rog", QSGD16, 22.4),
    Line("rog", QSGD2, 17.6),
    Line("rog", "topk:density=0.05", 15.9),
    Line("rog", "gaussian:relative=2.5", 19.9),
    Line("inverting_gradients", "none", 25.4),
    Line("inverting_gradients", QSGD16, 25.2),
    Line("inverting_gradients", "topk:density=0.05", 18.1),
    Line("inverting_gradients", "topk:density=0.01", 13.3),
    Line("inverting_gradients", "gaussian:relative=2.5", 19.9),
    Line("rog:objective=misfit", QSGD16, None, seeds=1),
    Line("rog:objective=misfit", QSGD2, None, seeds=1),
    Line("rog:objective=misfit", "topk:density=0.05", None, seeds=1),
    Line("rog", "none", 21.0, training="fedavg:steps=5,lr=0.003", seeds=1),
)


def cases() -> Sequence[Case]:
    """Every line once, then its other seeds: stopped early, the table is whole."""
    return [
        Case(attack=line.attack, obfuscation=line.obfuscation, training=line.training, seed=seed)
        for seed in range(SEEDS)
        for line in STANDARD
        if seed < line.seeds
    ]


def run(case: Case, places: Places) -> Result:
    """One run of one attack."""
    client = published_client(places.anchor, training_spec=case.training, seed=case.seed)
    return measured(client, attack=case.attack, obfuscation=case.obfuscation, seed=case.seed)[0]


def missing(case: Case, places: Places) -> str:
    """Why the case cannot be run here."""
    return places.no_batch


def _of(results: Results, attack: str, line: Line) -> dict[int, Run]:
    """Seed -> result of one attack on a line's update."""
    found = [results[str(case)] for case in cases() if str(case) in results]
    wanted = (attack, line.obfuscation, line.training)
    return {r["seed"]: r for r in found if (r["attack"], r["obfuscation"], r["training"]) == wanted}


def table(results: Results) -> str:
    """The Markdown table of all lines that have a run."""
    rows = [
        "| attack | update sent | PSNR dB (earlier or published) | worst image | SSIM | s / iteration | iterations "
        "| to 22 dB, s | peak MiB | confidence | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in STANDARD:
        found = list(_of(results, line.attack, line).values())
        if not found:
            continue

        def mean(name: str, found: list[Run] = found) -> float:
            return statistics.mean(run[name] for run in found)

        spread = [run["psnr"] for run in found]
        reached = [run["seconds_to"]["22"] for run in found]
        sent = "`, then `".join(spec for spec in (line.training, line.obfuscation) if spec not in ("fedsgd", "none"))
        sent = sent or "none"
        sure = [run["confidence_rank"] for run in found if run.get("confidence_rank") is not None]
        range_ = f" ± {max(spread) - min(spread):.2f}" if len(found) > 1 else ""
        goal = f" ({line.target:.1f})" if line.target is not None else ""
        time = f"{statistics.mean(reached):.0f}" if None not in reached else "-"
        peak = max(run["peak_mib"] or 0 for run in found)
        rank = f"{statistics.mean(sure):.2f}" if sure else "-"
        rows.append(
            f"| `{line.attack}` | `{sent}` | {mean('psnr'):.2f}{range_}{goal} "
            f"| {min(run['psnr_min'] for run in found):.1f} | {mean('ssim'):.3f} | {mean('seconds_per_iteration'):.2f} "
            f"| {found[0]['iterations']} | {time} | {peak} | {rank} | {len(found)} |"
        )
    return "\n".join(rows) + "\n"


def presets(results: Results) -> str:
    """The Markdown table of the three presets side by side, and how many times longer the other two took.

    Over the seeds that all presets of a line were run with. A preset that never came to a level took longer than its
    whole run.
    """
    rows = [
        "| update sent | `unveil` | `rog` | `inverting_gradients` | `rog` / `unveil`: time, to 22 dB "
        "| `inverting_gradients` / `unveil`: time, to 25 dB | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    names = ("unveil", "rog", "inverting_gradients")
    for line in STANDARD:
        of = {name: _of(results, name, line) for name in names}
        there = [name for name in names if of[name]]
        if line.attack != "unveil" or len(there) < 2 or "unveil" not in there:
            continue
        seeds = sorted(set.intersection(*(set(of[name]) for name in there)))
        cells = []
        for name in names:
            found = [of[name][seed] for seed in seeds] if name in there else []
            cells.append(f"{_mean(found, 'psnr'):.2f} dB, {_mean(found, 'seconds'):.0f} s" if found else "-")
        for other, level in (("rog", "22"), ("inverting_gradients", "25")):
            if other not in there:
                cells.append("-")
                continue
            whole = sum(of[other][s]["seconds"] for s in seeds) / sum(of["unveil"][s]["seconds"] for s in seeds)
            cells.append(f"{whole:.1f}, {_to(level, [of['unveil'][s] for s in seeds], [of[other][s] for s in seeds])}")
        sent = "`, then `".join(spec for spec in (line.training, line.obfuscation) if spec not in ("fedsgd", "none"))
        rows.append(f"| `{sent or 'none'}` | " + " | ".join(cells) + f" | {len(seeds)} |")
    return "\n".join(rows) + "\n"


def _mean(found: list[Run], name: str) -> float:
    return statistics.mean(run[name] for run in found)


def _to(level: str, fast: list[Run], slow: list[Run]) -> str:
    """How many times longer the slow one took to a level of PSNR."""
    ours = [run["seconds_to"][level] for run in fast]
    if None in ours:
        return "-"
    theirs = [run["seconds_to"][level] or run["seconds"] for run in slow]
    more = "> " if any(run["seconds_to"][level] is None for run in slow) else ""
    return f"{more}{sum(theirs) / sum(ours):.0f}"


BENCHMARK = Benchmark(
    name="published",
    title="the presets on the published batch, three seeds each",
    cases=cases,
    run=run,
    missing=missing,
    apart=True,
    minutes=85,
    blocks=(
        Block(page=README, marker="anchor", table=table),
        Block(page=README, marker="presets", table=presets),
    ),
)
