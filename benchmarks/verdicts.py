"""How often the verdict says *leaks* where nothing leaks, and where everything does.

Each case: eight CIFAR-10 test pictures and LeNet, three clients, QSGD-16, unveil with few steps. False alarm: the
update is another client's, the control is a third client's. Power: the update is the client's own, the control
another's.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.published import QSGD16
from benchmarks.reading import read, tensor
from unveil import attacks, obfuscations
from unveil.audits.controls import ANOTHER
from unveil.audits.trial import run_trial
from unveil.clients import training
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.models import build_model
from unveil.core.batch import Batch
from unveil.core.records import ATTACK as ATTACK_ITSELF
from unveil.core.records import Trial
from unveil.report import summarise
from unveil.report.significance import ALPHA, across_rows
from unveil.report.statistics import wilson

CASES, PICTURES, ATTACK = range(200), 8, "unveil:steps=10"
ROWS = 20  # cases that are taken for the rows of one report


@cache
def _pictures(data: Path) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    pictures, labels, names, _ = read(data, "cifar10_test4k.npz")
    return tensor(pictures, 32), torch.from_numpy(labels), tuple(names)


def run(number: int, places: Places) -> Result:
    """The levels of one case's two verdicts, and what they rest on."""
    images, labels, names = _pictures(places.data)
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(number))[: 3 * PICTURES].chunk(3)
    own, second, third = (Batch(images[part], labels[part]) for part in rows)

    def trial(other: Batch, obfuscation: str) -> Trial:
        client = Client(
            name="cifar",
            model_name="lenet",
            model=build_model("lenet", image_shape=(3, 32, 32), classes=len(names), seed=number),
            images=own.images,
            labels=own.labels,
            classes=len(names),
            training=training.parse("fedsgd"),
            source="cifar",
            class_names=names,
            evaluation=EvaluationSet(others=other),
        )
        return run_trial(
            client, obfuscations.parse(obfuscation), attacks.parse(ATTACK), seed=number, controls=(ANOTHER,)
        )

    leak, third_client = trial(second, QSGD16), trial(third, QSGD16)
    # What the second client's update gives away of the first one's pictures, beside what the third's does: nothing.
    null = dataclasses.replace(leak.final, scores=leak.final.controls[ANOTHER], controls=third_client.final.controls)
    alarm = dataclasses.replace(leak, outcomes={ATTACK_ITSELF: null})
    result: dict[str, Any] = {}
    for name, found in (("leak", leak), ("alarm", alarm)):
        (row,) = summarise([found])
        result[name] = row.verdict.level.name
        result[f"{name} p"] = {metric: round(p, 4) for metric, p in row.above.items()}
    return result


def table(results: Results) -> str:
    """Both rates with their intervals, and the levels of the false alarms."""
    cases = [results[str(number)] for number in CASES if str(number) in results]
    rows = ["| update | verdict | cases | share [95 %] |", "|---|---|---|---|"]
    for name, levels in (("leak", {"LEAKS"}), ("leak", {"LEAKS", "PARTLY"}), ("alarm", {"LEAKS", "PARTLY"})):
        hits = sum(case[name] in levels for case in cases)
        rate = wilson(hits, len(cases))
        what = "the client's own" if name == "leak" else "another client's"
        rows.append(
            f"| {what} | {' or '.join(sorted(levels))} | {hits} of {len(cases)} "
            f"| {rate.mean:.1%} [{rate.low:.1%}, {rate.high:.1%}] |"
        )
    rest = Counter(case["alarm"] for case in cases)
    rows.append(f"| another client's | INCONCLUSIVE | {rest['INCONCLUSIVE']} of {len(cases)} | |")
    reports = [cases[start : start + ROWS] for start in range(0, len(cases) - ROWS + 1, ROWS)]
    for what, corrected in (("rows not corrected for", False), ("corrected", True)):
        tests = [[case["alarm p"] for case in report] for report in reports]
        found = [across_rows(report) if corrected else report for report in tests]
        alarms = sum(any(p <= ALPHA for row in report for p in row.values()) for report in found)
        rows.append(
            f"| another client's, reports of {ROWS} rows, {what} | p <= {ALPHA} | {alarms} of {len(reports)} | |"
        )
    return "\n".join(rows) + "\n"


BENCHMARK = Benchmark(
    name="verdicts",
    title="false alarms and power of the verdict",
    cases=lambda: CASES,
    run=run,
    missing=lambda case, places: places.no_pictures,
    minutes=35,
    blocks=(Block(page=DOCS / "metrics.md", marker="verdicts", table=table),),
)
