"""How many labels come back without being known, by network, batch and obfuscation.

Built-in pictures at 32 px. Beside unveil's inference stands the rule of row sums (the bias where it is sent, else the
sum of each row of the last weight; a gain from the median class, or from noise pictures; largest remainders), and for
single pictures iDLG's criterion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import mean

import torch
from torch import Generator, Tensor, nn

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import on_threads
from unveil.attacks.labels.inference import infer_labels
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.batch import Batch
from unveil.core.protocols import Knowledge, LocalTraining
from unveil.core.update import Update
from unveil.obfuscations import parse

SHAPE, CLASSES, SIZE = (3, 32, 32), 10, 32
BATCHES = (1, 4, 16, 30)
SENT: Mapping[str, tuple[str, LocalTraining]] = {
    "none": ("none", FedSGD()),
    "top-k 5 %": ("topk:density=0.05", FedSGD()),
    "top-k 1 %": ("topk:density=0.01", FedSGD()),
    "QSGD-2": ("qsgd:levels=2,norm=max", FedSGD()),
    "QSGD-16": ("qsgd:levels=16,norm=max", FedSGD()),
    "sign": ("sign", FedSGD()),
    "noise 1x": ("gaussian:relative=1", FedSGD()),
    "noise 2.5x": ("gaussian:relative=2.5", FedSGD()),
    "random-k 5 %": ("randomk:density=0.05", FedSGD()),
    "FedAvg": ("none", FedAvg(epochs=2, batch_size=8, lr=0.02, momentum=0.9)),
}
Score = dict[str, object]


def mlp(activation: Callable[[], nn.Module], *, bias: bool) -> nn.Module:
    head = nn.Linear(64, CLASSES, bias=bias)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 64), activation(), head)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "LeNet": lambda: build_model("lenet", image_shape=SHAPE, classes=CLASSES, seed=torch.initial_seed()),
    "MLP, ReLU, bias": lambda: mlp(nn.ReLU, bias=True),
    "MLP, ReLU": lambda: mlp(nn.ReLU, bias=False),
    "MLP, Tanh": lambda: mlp(nn.Tanh, bias=False),
    "MLP, ELU, bias": lambda: mlp(nn.ELU, bias=True),
    "MLP, GELU": lambda: mlp(nn.GELU, bias=False),
    "MLP, SiLU": lambda: mlp(nn.SiLU, bias=False),
    "MLP, LogSigmoid": lambda: mlp(nn.LogSigmoid, bias=False),
    "MLP, LayerNorm": lambda: mlp(lambda: nn.Sequential(nn.ReLU(), nn.LayerNorm(64)), bias=False),
    "trained MLP, ReLU, bias": lambda: trained(mlp(nn.ReLU, bias=True)),
}


def coloured(pictures: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Pictures whose tint tells the class, for a network that has learned something."""
    turn = labels * 2 * torch.pi / CLASSES
    tint = torch.stack([turn.cos(), turn.sin(), (2 * turn).cos()], 1)[:, :, None, None]
    grain = torch.randn(pictures.shape, generator=generator)
    return (0.6 * pictures + 0.2 + 0.06 * tint + 0.05 * grain).clamp(0, 1)


def trained(model: nn.Module, steps: int = 200) -> nn.Module:
    """The network after some steps of Adam on tinted pictures."""
    generator = Generator().manual_seed(torch.initial_seed())
    pictures = load_pictures("builtin", count=14, size=SIZE).images
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        labels = torch.randint(CLASSES, (32,), generator=generator)
        images = coloured(pictures[torch.randint(len(pictures), (32,), generator=generator)], labels, generator)
        adam.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        adam.step()
    return model


def batch_of(n: int, network: str, seed: int) -> Batch:
    """One picture, four of different classes, 16 of which six share a class, or 30 of any."""
    generator = Generator().manual_seed(1000 + seed)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    if n == 4:
        labels = torch.randperm(CLASSES, generator=generator)[:n]
    if n == 16:
        labels[:6] = labels[0]
    pictures = load_pictures("builtin", count=14, size=SIZE).images
    pictures = pictures[torch.randperm(14, generator=generator)[torch.arange(n) % 14]]
    if network.startswith("trained"):
        return Batch(coloured(pictures, labels, generator), labels)
    return Batch((pictures + 0.05 * (n > 14) * torch.randn(pictures.shape, generator=generator)).clamp(0, 1), labels)


def row_sums(model: nn.Module, update: Update, knowledge: Knowledge) -> Tensor:
    """Labels by the row sums of the last layer, or its bias."""
    tensors = list(update.tensors.values())
    signal = tensors[-1] if tensors[-1].dim() == 1 and bool(tensors[-1].any()) else None
    if signal is None:
        signal = next(t for t in reversed(tensors) if t.dim() == 2).sum(1)
    n = knowledge.num_images
    guess = torch.arange(n) % CLASSES
    noise = torch.rand((n, *SHAPE), generator=Generator().manual_seed(0))
    chance = model(noise).detach().softmax(1).mean(0)
    if 4 * n <= CLASSES:  # most classes do not occur
        gain = float((signal / chance).median())
    else:
        sent = list(knowledge.training(model, Batch(noise, guess)).values())
        own = sent[-1] if sent[-1].dim() == 1 else sent[-1].sum(1)
        off = chance - torch.bincount(guess, minlength=CLASSES) / n
        gain = float((own if len(own) == len(off) else sent[-2].sum(1)) @ off / off.square().sum())
    pull = (gain * chance - signal).clamp_min(0)
    share = n * pull / pull.sum().clamp_min(1e-30)
    counts = share.floor().long()
    for c in (share - counts).argsort(descending=True).repeat(n)[: n - int(counts.sum())].tolist():
        counts[c] += 1
    return torch.repeat_interleave(torch.arange(CLASSES), counts)


def by_idlg(update: Update) -> Tensor:
    """What iDLG's criterion names: the row of the last weight with most negative inner products with the others."""
    weight = next(t for t in reversed(list(update.tensors.values())) if t.dim() == 2)
    return (weight @ weight.T < 0).sum(1).argmax()[None]


def right(found: Tensor, labels: Tensor) -> float:
    """Share of the labels found, as multisets."""
    return sum((Counter(found.tolist()) & Counter(labels.tolist())).values()) / len(labels)


def scored(network: str, n: int, sent: str, seed: int) -> Score:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[network]().eval()
    spec, training = SENT[sent]
    batch, obfuscation = batch_of(n, network, seed), parse(spec)
    update = obfuscation(Update(training(model, batch)), generator=Generator().manual_seed(seed))
    knowledge = Knowledge(training=training, image_shape=SHAPE, num_images=n, classes=CLASSES, obfuscation=obfuscation)
    scores = {
        "unveil": right(infer_labels(model, update, knowledge)[0], batch.labels),
        "row sums": right(row_sums(model, update, knowledge), batch.labels),
        "iDLG": right(by_idlg(update), batch.labels) if n == 1 else None,
    }
    return {"network": network, "images": n, "sent": sent, "seed": seed, **scores}


def table(scores: list[Score], side: str, heading: str) -> str:
    """Shares right in percent, ours and by row sums; a line for each value of one setting."""
    lines = [f"| {heading} | " + " | ".join(SENT) + " |", "|" + "---|" * (len(SENT) + 1)]
    for value in dict.fromkeys(score[side] for score in scores):
        cells = []
        for sent in SENT:
            some = [s for s in scores if s[side] == value and s["sent"] == sent]
            ours, theirs = (100 * mean(float(str(s[who])) for s in some) for who in ("unveil", "row sums"))
            cells.append(f"{ours:.0f} ({theirs:.0f})")
            if side == "images" and value == 1:
                cells[-1] += f" [{100 * mean(float(str(s['iDLG'])) for s in some):.0f}]"
        lines.append(f"| {value} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One client and one update sent."""

    network: str
    images: int
    sent: str
    seed: int

    def __str__(self) -> str:
        return "; ".join(map(str, astuple(self)))


CASES: Sequence[Case] = [
    Case(network=network, images=n, sent=sent, seed=seed)
    for network in NETWORKS
    for n in BATCHES
    for sent in SENT
    for seed in range(2)
]


def run(case: Case, places: Places) -> Result:
    """Shares of the labels found, on one thread."""
    with on_threads(1):
        return scored(case.network, case.images, case.sent, case.seed)


def tables(results: Results) -> str:
    """By network and by batch."""
    scores = [results[str(case)] for case in CASES if str(case) in results]
    return table(scores, "network", "network") + "\n" + table(scores, "images", "images")


BENCHMARK = Benchmark(
    name="labels",
    title="labels inferred, by network, batch and obfuscation",
    cases=lambda: CASES,
    run=run,
    minutes=5,
    blocks=(Block(page=DOCS / "method.md", marker="labels", table=tables),),
)
