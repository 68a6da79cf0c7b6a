"""How often the verdict says *leaks* where nothing leaks, and where everything does.

    python benchmarks/verdicts.py [--data DIR] [--cases 200]

Each case: eight CIFAR-10 test pictures and LeNet, three clients, QSGD-16, unveil with few steps. False alarm: the
update is another client's, the control is a third client's. Power: the update is the client's own, the control
another's. Kept in benchmarks/results/verdicts.json after each case; started again, it goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from data import read, tensor
from run import HERE, QSGD16, RESULTS, write
from unveil import attacks, obfuscations
from unveil.audits.controls import ANOTHER
from unveil.audits.trial import run_trial
from unveil.clients import training
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.models import build_model
from unveil.core.records import ATTACK as ATTACK_ITSELF
from unveil.core.records import Trial
from unveil.core.types import Batch
from unveil.report import summarise
from unveil.report.statistics import wilson

DEFAULT_DATA = HERE.parents[1] / "shared" / "data"
PICTURES, ATTACK = 8, "unveil:steps=10"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("UNVEIL_DATA", DEFAULT_DATA)))
    parser.add_argument("--cases", type=int, default=200)
    args = parser.parse_args()
    if not (args.data / "load.py").is_file():
        print("skipped: the pictures are not here; name their folder with --data or UNVEIL_DATA")
        return 0
    kept = RESULTS / "verdicts.json"
    cases: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else []
    pictures, labels, names, _ = read(args.data, "cifar10_test4k.npz")
    images, truth = tensor(pictures, 32), torch.from_numpy(labels)
    for number in range(len(cases), args.cases):
        cases.append(case(number, images, truth, tuple(names)))
        write(kept, json.dumps(cases, indent=1) + "\n")
        if len(cases) % 10 == 0:
            print(said(cases), flush=True)
    print(said(cases))
    return 0


def case(number: int, images: torch.Tensor, labels: torch.Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """The levels of one case's two verdicts, and what they rest on."""
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
        result[f"{name} p"] = {measure: round(p, 4) for measure, p in row.above.items()}
    return result


def said(cases: list[dict[str, Any]]) -> str:
    """Both rates with their intervals."""
    lines = []
    for name, levels in (("leak", {"LEAKS"}), ("leak", {"LEAKS", "PARTLY"}), ("alarm", {"LEAKS", "PARTLY"})):
        hits = sum(case[name] in levels for case in cases)
        rate = wilson(hits, len(cases))
        what = "own update" if name == "leak" else "another client's update"
        lines.append(
            f"{what}: {' or '.join(sorted(levels))} in {hits} of {len(cases)} ({rate.low:.1%} to {rate.high:.1%})"
        )
    lines.append(f"levels: {dict(Counter(case['alarm'] for case in cases))}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
