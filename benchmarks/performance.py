"""Where the own attack's time goes, how time and memory grow, and what a step and the closed-form parts cost.

Pictures are dead leaves, drawn from a seed, so that anybody can repeat this. One thread, QSGD-16 unless said.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from types import FrameType

import torch
from torch.nn import Flatten, Sequential

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import on_threads
from benchmarks.pages import lines
from benchmarks.published import QSGD16
from benchmarks.victims import torchvision_resnet18
from unveil import attacks, obfuscations
from unveil.attacks.dead_leaves import dead_leaves
from unveil.audits.pipeline import Outcome, play
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.core.arithmetic import using
from unveil.core.watch import Progress
from unveil.metrics.pixel import psnr

CLASSES = 1000
EVERY = 0.005  # seconds between two looks at what runs
TURNS = 7  # measurements of each plain pass
CORES = 2  # threads for the parts in closed form
STAGES = 5  # of an attack; with as many steps each has one, and the closed-form parts take nearly all of the time
POOLED = "torchvision resnet18"
PARTS = {
    "minimise": "search, other",
    "closure": "search, forward",
    "reread": "first separation",
    "SeparateBatch.__call__": "first separation",
    "PeelBatch.__call__": "peeling",
    "fit_decoder": "decoder",
    "Decoder.__call__": "decoder",
    "FeatureRefiner.__call__": "separation between stages",
    "MatchFeatures.__call__": "search, other",
    "read_head": "reading the network",
}
"""Function of the attack -> part that its time belongs to; the innermost function counts."""
BACKWARD, REST = "search, backward", "other"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack.

    Args:
        group: `parts`, `step`, `closed form`, or what grows: `pictures`, `pixels` or `network`.
        pictures: Pictures in the batch.
        pixels: Height and width.
    """

    group: str
    obfuscation: str = QSGD16
    model: str = "lenet"
    pictures: int = 16
    pixels: int = 128

    def __str__(self) -> str:
        return "; ".join(map(str, astuple(self)))


CASES = (
    *(Case(group="parts", obfuscation=sent) for sent in ("none", QSGD16, "topk:density=0.05")),
    *(Case(group="step", model=model) for model in ("lenet", "resnet18")),
    Case(group="closed form", pictures=128),
    Case(group="closed form", pictures=4, model=POOLED, obfuscation="none"),
    *(Case(group="pictures", pictures=count, pixels=64) for count in (4, 16, 64, 256)),
    *(Case(group="pixels", pixels=size) for size in (32, 64, 128, 224)),
    *(Case(group="network", model=model, pixels=64) for model in ("lenet", "vgg7", "resnet18")),
)


def run(case: Case, places: Places) -> Result:
    """Measure one case with one thread, or `CORES` for the parts in closed form, rough steps in float32."""
    with on_threads(CORES if case.group == "closed form" else 1), using("float32"):
        return {"parts": parts, "step": step, "closed form": closed_form}.get(case.group, whole)(case)


def client_of(case: Case) -> Client:
    """A client with pictures and weights of seed 0, each picture of a class of its own."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, case.pixels, case.pixels)
    if case.model == POOLED:
        model = torchvision_resnet18(CLASSES)
    else:
        model = build_model(case.model, image_shape=shape, classes=CLASSES, seed=0)
    return Client(
        model,
        dead_leaves(case.pictures, shape, generator=generator),
        torch.randperm(CLASSES, generator=generator)[: case.pictures],
        training=FedSGD(),
        classes=CLASSES,
        name=case.group,
        model_name=case.model,
        source="dead leaves",
    )


def attacked(
    case: Case, client: Client, watch: Callable[[Progress], None] | None = None, *, spec: str = "unveil"
) -> Outcome:
    """The attack on the client."""
    return play(client, obfuscations.parse(case.obfuscation), attacks.parse(spec), seed=0, watch=watch)


def whole(case: Case) -> Result:
    """Seconds, peak memory of the process in MiB, and that before the attack; size of the update; mean PSNR in dB."""
    client = client_of(case)
    size = sum(p.numel() * p.element_size() for p in client.model.parameters()) / 2**20
    before = resident()
    outcome = attacked(case, client)
    quality = psnr(client.images, outcome.attack.images).mean()
    return {
        "seconds": outcome.seconds,
        "peak_mib": outcome.peak_mib,
        "before_mib": before,
        "update_mib": size,
        "parameters": sum(p.numel() for p in client.model.parameters()),
        "psnr": float(quality),
    }


def resident() -> float:
    """Memory of this process in MiB, on Linux."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def parts(case: Case) -> Result:
    """Seconds of the whole attack, and the share of each part."""
    client = client_of(case)
    with looking() as seen:
        outcome = attacked(case, client)
    total = sum(seen.values())
    return {"seconds": outcome.seconds, "shares": {part: count / total for part, count in seen.most_common()}}


def closed_form(case: Case) -> Result:
    """Seconds of the parts of an attack with one step a stage: before there are pictures, and for each stage."""
    client = client_of(case)
    with looking() as seen:
        outcome = attacked(case, client, spec=f"unveil:steps={STAGES}")
    part = {name: outcome.seconds * count / sum(seen.values()) for name, count in seen.items()}
    return {
        "first": part.get("first separation", 0.0),
        "between": part.get("separation between stages", 0.0) / STAGES,
        "peeling": part.get("peeling", 0.0),
    }


@contextmanager
def looking() -> Iterator[Counter[str]]:
    """Count every few milliseconds to which part the running function of this thread belongs."""
    seen: Counter[str] = Counter()
    thread, ended = threading.get_ident(), threading.Event()

    def look() -> None:
        while not ended.wait(EVERY):
            if part := part_of(sys._current_frames()[thread]):
                seen[part] += 1

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        yield seen
    finally:
        ended.set()
        looker.join()


def part_of(frame: FrameType | None) -> str:
    """The part that a stack of frames belongs to; empty outside the attack."""
    names: list[str] = []
    while frame is not None:
        names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    if "attacked" not in names or "run_schedule" not in names:
        return ""
    for depth, name in enumerate(names):
        if (part := PARTS.get(name) or PARTS.get(name.rsplit(".", 1)[-1])) is not None:
            is_backward = name.rsplit(".", 1)[-1] == "closure" and "grad" in names[:depth]
            return BACKWARD if is_backward else part
    return REST


def step(case: Case) -> Result:
    """Median seconds of a step of the search, and of plain passes through the layers before the Flatten, in one run."""
    client = client_of(case)
    plain = plain_passes(client)
    times = {name: [seconds_of(run) for _ in range(TURNS)] for name, run in plain.items()}
    ticks: list[float] = []
    attacked(case, client, watch=lambda progress: ticks.append(time.perf_counter()))
    for name, run in plain.items():
        times[name] += [seconds_of(run) for _ in range(TURNS)]
    # Between two stages the batch is separated again; the median is a step of the search.
    gaps = [after - before for before, after in itertools.pairwise(ticks)]
    return {"step": statistics.median(gaps), **{name: statistics.median(found) for name, found in times.items()}}


def plain_passes(client: Client) -> Mapping[str, Callable[[], object]]:
    """Name -> a forward pass alone, and one with the pass back to the pictures."""
    assert isinstance(client.model, Sequential)
    body = client.model[: next(i for i, layer in enumerate(client.model) if isinstance(layer, Flatten))]
    body = copy.deepcopy(body).requires_grad_(False)  # weights need no gradient in either pass
    images = client.images.clone().requires_grad_()
    with torch.no_grad():
        slopes = torch.randn_like(body(images))

    def forward() -> object:
        with torch.no_grad():
            return body(images)

    return {"forward": forward, "both": lambda: torch.autograd.grad(body(images), images, slopes)}


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def parts_table(kept: Results) -> Iterator[str]:
    """A column for each update sent, a row for each part."""
    found = {case.obfuscation: kept[str(case)] for case in CASES if case.group == "parts" and str(case) in kept}
    yield f"| share of the time | {' | '.join(f'`{sent}`' for sent in found)} |"
    yield f"|---|{'---|' * len(found)}"
    names = dict.fromkeys(name for result in found.values() for name in result["shares"])
    for name in sorted(names, key=lambda name: -sum(result["shares"].get(name, 0) for result in found.values())):
        shares = [100 * result["shares"].get(name, 0) for result in found.values()]
        yield f"| {name} | {' | '.join(f'{share:.0f} %' for share in shares)} |"
    seconds = [result["seconds"] for result in found.values()]
    yield f"| whole attack, s | {' | '.join(f'{took:.0f}' for took in seconds)} |"


def step_table(kept: Results) -> Iterator[str]:
    """A row for each network."""
    yield "| network | forward, s | forward and back, s | ratio | step of the search, s | ratio to forward and back |"
    yield "|---|---|---|---|---|---|"
    for case in CASES:
        if case.group == "step" and (r := kept.get(str(case))) is not None:
            yield (
                f"| `{case.model}` | {r['forward']:.3f} | {r['both']:.3f} | {r['both'] / r['forward']:.2f} "
                f"| {r['step']:.3f} | {r['step'] / r['both']:.2f} |"
            )


def closed_form_table(kept: Results) -> Iterator[str]:
    """A row for each attack."""
    yield "| network | pictures | pixels | update sent | first separation, s | separation for a stage, s | peeling, s |"
    yield "|---|---|---|---|---|---|---|"
    for case in CASES:
        if case.group == "closed form" and (r := kept.get(str(case))) is not None:
            cells = [f"{r[name]:.1f}" if r[name] else "-" for name in ("first", "between", "peeling")]
            yield (
                f"| {case.model if case.model == POOLED else f'`{case.model}`'} | {case.pictures} "
                f"| {case.pixels} x {case.pixels} | `{case.obfuscation}` | {' | '.join(cells)} |"
            )


def growth_table(kept: Results) -> Iterator[str]:
    """A row for each attack."""
    yield (
        "| network | pictures | pixels | parameters | seconds | s a picture | peak above start, MiB | in updates "
        "| PSNR, dB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in CASES:
        if case.group in ("parts", "step", "closed form") or (r := kept.get(str(case))) is None:
            continue
        above = r["peak_mib"] - r["before_mib"]
        yield (
            f"| `{case.model}` | {case.pictures} | {case.pixels} x {case.pixels} | {r['parameters'] / 1e6:.1f} million "
            f"| {r['seconds']:.1f} | {r['seconds'] / case.pictures:.2f} | {above:.0f} | {above / r['update_mib']:.1f} "
            f"| {r['psnr']:.1f} |"
        )


PAGE = DOCS / "performance.md"
BENCHMARK = Benchmark(
    name="performance",
    title="where the own attack's time goes, how it grows, and what a step and the closed-form parts cost",
    cases=lambda: CASES,
    run=run,
    apart=True,
    minutes=25,
    blocks=(
        Block(page=PAGE, marker="performance-parts", table=lines(parts_table)),
        Block(page=PAGE, marker="performance-step", table=lines(step_table)),
        Block(page=PAGE, marker="performance-closed", table=lines(closed_form_table)),
        Block(page=PAGE, marker="performance-growth", table=lines(growth_table)),
    ),
)
