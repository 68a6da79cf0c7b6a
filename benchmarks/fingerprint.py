"""How often the fingerprint of a received update names the obfuscation that made it, on random updates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import on_threads
from benchmarks.random_updates import client_of, kinds, network_of, sent_by
from unveil.core.update import Update
from unveil.inspection.fingerprint.equals import same_families, same_settings
from unveil.inspection.fingerprint.fingerprint import fingerprint
from unveil.obfuscations import parse

NUMBERS = range(3000, 3300)  # constants were chosen on other numbers
OF_WEIGHTS = NUMBERS[:100]  # these are read a second time, from recorded weights


@dataclass(frozen=True, kw_only=True)
class Case:
    """One update.

    Args:
        number: All that is drawn follows from it: pictures, weights, local training and obfuscation.
        of_weights: The update is the difference of recorded float32 weights, before the round and after it.
    """

    number: int
    of_weights: bool = False

    def __str__(self) -> str:
        read = "; of weights" if self.of_weights else ""
        return f"{self.number}; {network_of(self.number)}; {'+'.join(kinds(self.number)) or 'none'}{read}"


CASES: Sequence[Case] = (
    *(Case(number=number) for number in NUMBERS),
    *(Case(number=number, of_weights=True) for number in OF_WEIGHTS),
)


def run(case: Case, places: Places) -> Result:
    """What was sent and found, and whether families and settings agree but for what cannot be told; on one thread."""
    with on_threads(1):
        client = client_of(network_of(case.number), case.number, places.data)
        sent = sent_by(client, case.number)
        received, before = sent.received, None
        if case.of_weights:
            before = {name: weight.detach() for name, weight in client.model.named_parameters()}
            received = Update({name: before[name] - (before[name] - t) for name, t in received.tensors.items()})
        started = time.process_time()
        found = fingerprint(received, before=before)
        used = time.process_time() - started
    return {
        "sent": sent.spec,
        "found": found.spec,
        "confidence": round(found.confidence, 3),
        "family": same_families(found.obfuscation, parse(sent.spec)),
        "settings": same_settings(found.obfuscation, parse(sent.spec)),
        "training": str(client.training),
        "images": len(client.images),
        "processor_seconds": round(used, 2),
    }


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here; empty if it can."""
    return places.no_pictures


WEIGHTS: dict[str, Callable[[Case], bool]] = {
    "`none`, of recorded weights": lambda case: not kinds(case.number),
    "one stage, of recorded weights": lambda case: len(kinds(case.number)) == 1,
    "two stages, of recorded weights": lambda case: len(kinds(case.number)) == 2,
}
GROUPS: dict[str, Callable[[Case], bool]] = {
    "`none`": lambda case: not kinds(case.number),
    "one stage": lambda case: len(kinds(case.number)) == 1,
    "two stages": lambda case: len(kinds(case.number)) == 2,
    "LeNet": lambda case: network_of(case.number) == "lenet",
    "VGG-7": lambda case: network_of(case.number) == "vgg7",
    "ResNet-9, train mode": lambda case: network_of(case.number) == "resnet9",
}


def table(results: Results) -> str:
    """A line for each group and for each obfuscation alone: how many, family and settings right, seconds."""
    lines = ["| updates | how many | family right | settings right | s / update |", "|---|---|---|---|---|"]
    kept = [case for case in CASES if str(case) in results]
    alone = dict.fromkeys(kinds(case.number)[0] for case in CASES if len(kinds(case.number)) == 1)
    groups = dict(GROUPS)
    groups |= {f"`{kind}` alone": lambda case, kind=kind: kinds(case.number) == (kind,) for kind in sorted(alone)}
    groups |= WEIGHTS
    for name, belongs in groups.items():
        some = [results[str(case)] for case in kept if belongs(case) and case.of_weights == (name in WEIGHTS)]
        if some:
            seconds = sum(one["processor_seconds"] for one in some) / len(some)
            right, settings = (100 * sum(one[key] for one in some) / len(some) for key in ("family", "settings"))
            lines.append(f"| {name} | {len(some)} | {right:.1f} % | {settings:.1f} % | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


BENCHMARK = Benchmark(
    name="fingerprint",
    title="obfuscations named from received updates alone",
    cases=lambda: CASES,
    run=run,
    missing=missing,
    minutes=35,
    blocks=(Block(page=DOCS / "inspect.md", marker="fingerprint", table=table),),
)
