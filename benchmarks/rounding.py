"""What another rounding of sums changes: the demo's batch with one thread and with two, and with a nudged search.

Threads change the order of sums, and so the last digits. How a search amplifies that is seen by moving each pixel by
about 1e-6 after the separation, with one thread: the same settings, the same seeds, the same separated features.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from functools import partial

import torch

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import on_threads
from benchmarks.pages import lines
from unveil import obfuscations
from unveil.attacks.separation.attack import FeatureInversion, run_schedule
from unveil.attacks.separation.stages import MatchFeatures
from unveil.attacks.separation.state import Problem, State
from unveil.audits.pipeline import play
from unveil.cli.demo import OBFUSCATIONS, demo
from unveil.core.types import Images
from unveil.metrics.pixel import psnr

SIZE = 1e-6  # standard deviation of the nudge, in pixel values
THREADS = "2 threads for 1"
NUDGES = ("nudge 1", "nudge 2")
STEPS = (100, 400)


@dataclass(frozen=True, kw_only=True)
class Case:
    """The same attack twice, with another rounding.

    Args:
        change: What is changed the second time: the number of threads, or the start of the search.
        steps: Steps of the attack.
    """

    obfuscation: str
    change: str
    steps: int

    def __str__(self) -> str:
        return "; ".join(map(str, astuple(self)))


@dataclass(frozen=True, kw_only=True)
class Noted:
    """A stage that notes the pictures after another one.

    Args:
        seen: Where the pictures are put.
    """

    stage: MatchFeatures
    seen: list[Images]

    @property
    def steps(self) -> int:
        """Steps of the stage."""
        return self.stage.steps

    def __call__(self, problem: Problem, state: State) -> State:
        """Run the stage."""
        state = self.stage(problem, state)
        self.seen.append(state.pictures)
        return state


@dataclass(frozen=True, kw_only=True)
class Nudge:
    """A stage that moves every pixel by chance, by about `SIZE`; seed 0 moves none."""

    seed: int
    steps: int = 0

    def __call__(self, problem: Problem, state: State) -> State:
        """Move the pictures."""
        if not self.seed:
            return state
        noise = torch.randn(state.pictures.shape, generator=torch.Generator().manual_seed(self.seed))
        return replace(state, pictures=(state.pictures + SIZE * noise).clamp(0, 1))


def run(case: Case, places: Places) -> Result:
    """How far the pictures of both runs are apart after each stage, and their PSNR in dB."""
    change = {"threads": 2} if case.change == THREADS else {"nudge": int(case.change.split()[-1])}
    one, other = played(case), played(case, **change)
    apart = [float((a - b).square().mean().sqrt()) for a, b in zip(one[0], other[0], strict=True)]
    return {"apart": apart, "psnr": [one[1], other[1]]}


def played(case: Case, *, threads: int = 1, nudge: int = 0) -> tuple[list[Images], list[float]]:
    """The pictures after each stage that matches features, and the PSNR of each picture of the result in dB."""
    (client,), seen = demo().clients, list[Images]()
    schedule = FeatureInversion(steps=case.steps).schedule
    first, *others = schedule.separated
    noted = [Noted(stage=stage, seen=seen) if isinstance(stage, MatchFeatures) else stage for stage in others]
    schedule = replace(schedule, separated=(first, Nudge(seed=nudge), *noted))
    with on_threads(threads):
        outcome = play(client, obfuscations.parse(case.obfuscation), partial(run_schedule, schedule), seed=0)
    return seen, psnr(client.images, outcome.attack.images).tolist()


def cases() -> list[Case]:
    """Threads through every obfuscation of the demo, and nudges where nothing is obfuscated."""
    threads = [Case(obfuscation=sent, change=THREADS, steps=STEPS[0]) for sent in OBFUSCATIONS]
    nudges = [Case(obfuscation="none", change=nudge, steps=steps) for steps in STEPS for nudge in NUDGES]
    return threads + nudges


def table(kept: Results) -> Iterator[str]:
    """One line for each case."""
    yield "| update sent | steps | changed | pictures apart after each stage | batch, dB | largest of a picture, dB |"
    yield "|---|---|---|---|---|---|"
    for case in cases():
        if (found := kept.get(str(case))) is None:
            continue
        one, other = found["psnr"]
        apart = ", ".join(f"{value:.3f}" for value in found["apart"])
        largest = max(abs(a - b) for a, b in zip(one, other, strict=True))
        yield (
            f"| `{case.obfuscation}` | {case.steps} | {case.change} | {apart} "
            f"| {statistics.mean(one):.2f}, {statistics.mean(other):.2f} | {largest:.2f} |"
        )


BENCHMARK = Benchmark(
    name="rounding",
    title="what another rounding of sums changes in a result",
    cases=cases,
    run=run,
    blocks=(Block(page=DOCS / "results.md", marker="rounding", table=lines(table)),),
    minutes=4,
)
