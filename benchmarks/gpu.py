"""The attack on a card beside the processor: the README's LeNet lines and a ResNet-18, and how busy the kernels are.

LeNet sees the published batch, ResNet-18 dead leaves that are drawn from a seed. Both devices get the same random
numbers, so that PSNR differs by rounding alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import measured, published_client
from benchmarks.pages import lines
from benchmarks.published import QSGD16
from benchmarks.victims import torchvision_resnet18
from unveil import attacks, obfuscations
from unveil.attacks.dead_leaves import dead_leaves
from unveil.audits.pipeline import play
from unveil.clients.client import Client
from unveil.clients.training import FedSGD
from unveil.core.arithmetic import machine

CARD, PROCESSOR = "cuda:0", "cpu"
CLASSES = 1000
FEW = 20  # steps of the attack whose kernels are timed
SENT = ("none", QSGD16, "topk:density=0.05")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack on one device.

    Args:
        network: `lenet` or `ResNet-18`.
        device: Where it is computed.
    """

    network: str
    attack: str
    obfuscation: str
    device: str

    def __str__(self) -> str:
        return "; ".join(astuple(self))


CASES = tuple(
    Case(network=network, attack=attack, obfuscation=sent, device=device)
    for network, names in (("lenet", ("unveil", "rog", "inverting_gradients")), ("ResNet-18", ("unveil",)))
    for attack in names
    for sent in SENT
    for device in (CARD, PROCESSOR)
)


def missing(case: Case, places: Places) -> str:
    """Why the case cannot be run here: without a card its lines beside the processor have nothing to stand beside."""
    if not torch.cuda.is_available():
        return "no CUDA device is here"
    return places.no_batch if case.network == "lenet" else ""


def client_of(case: Case, places: Places) -> Client:
    """The client, on the processor."""
    if case.network == "lenet":
        return published_client(places.anchor)
    generator = torch.Generator().manual_seed(0)
    return Client(
        torchvision_resnet18(CLASSES),
        dead_leaves(4, (3, 128, 128), generator=generator),
        torch.randperm(CLASSES, generator=generator)[:4],
        training=FedSGD(),
        classes=CLASSES,
        name="dead leaves",
        model_name=case.network,
        source="dead leaves",
    )


def run(case: Case, places: Places) -> Result:
    """Measure one attack, and time the kernels of a short one."""
    return on_device(case, client_of(case, places))


def on_device(case: Case, client: Client) -> Result:
    """Measure the attack of a case on a client; `busy` is of a few steps, see `busy_share`."""
    device = torch.device(case.device)
    client = client.to(device)

    def short() -> None:
        spec = f"{case.attack.partition(':')[0]}:steps={FEW}"
        play(client, obfuscations.parse(case.obfuscation), attacks.parse(spec), seed=0)

    short()  # the first run on a card loads its kernels
    return {
        **measured(client, attack=case.attack, obfuscation=case.obfuscation)[0],
        "busy": busy_share(short, device),
        "machine": machine(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else "processor",
    }


def busy_share(work: Callable[[], None], device: torch.device) -> float:
    """Return the share of the wall time in which kernels of a card run; on a processor, torch's operators.

    Args:
        work: What is timed.
        device: Where it is computed.
    """
    is_card = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_card else [])]
    with profile(activities=activities) as profiled:
        if is_card:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if is_card:
            torch.cuda.synchronize(device)
        wall = time.perf_counter() - start
    kind = DeviceType.CUDA if is_card else DeviceType.CPU
    events = [event for event in profiled.key_averages() if event.device_type == kind]
    took = sum(event.self_device_time_total if is_card else event.self_cpu_time_total for event in events)
    return float(took / 1e6 / wall)


def table(kept: Results) -> Iterator[str]:
    """A row for each attack, with the card beside the processor; one sentence where none was run."""
    done = [case for case in CASES if case.device == CARD and str(case) in kept]
    if not done:
        yield "Not run on a card yet: none was at hand. `python -m benchmarks run gpu` runs it where there is one."
        return
    names = dict.fromkeys(kept[str(case)]["name"] for case in done)
    where = " and ".join(names)
    yield f"| network | attack | update sent | PSNR dB, {where} | processor | s | processor | busy | peak MiB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in done:
        card = kept[str(case)]
        other = kept.get(str(Case(**{**vars(case), "device": PROCESSOR})))
        beside = ("-", "-") if other is None else (f"{other['psnr']:.2f}", f"{other['seconds']:.1f}")
        yield (
            f"| {case.network} | `{case.attack}` | `{case.obfuscation}` | {card['psnr']:.2f} | {beside[0]} "
            f"| {card['seconds']:.1f} | {beside[1]} | {100 * card['busy']:.0f} % | {card['peak_mib']} |"
        )


BENCHMARK = Benchmark(
    name="gpu",
    title="the LeNet lines and a ResNet-18 on a card beside the processor, and how busy the card's kernels are",
    cases=lambda: CASES,
    run=run,
    missing=missing,
    apart=True,
    minutes=30,
    blocks=(Block(page=DOCS / "performance.md", marker="gpu", table=lines(table)),),
)
