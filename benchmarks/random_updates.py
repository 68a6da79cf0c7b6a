"""Random updates of three networks: a batch, a local training and an obfuscation, all drawn from one number."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.reading import read, tensor
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.binding import for_client
from unveil.core.protocols import LocalTraining
from unveil.core.update import Update
from unveil.obfuscations import parse

NETWORKS = ("lenet", "vgg7", "resnet9")
BATCHES = (2, 4, 8, 16)
QUANTISERS = ("qsgd", "qsgd l2", "uniform", "ternary", "sign", "blockwise8", "nf4", "fp4")
HALVES = ("fp16", "bf16")
SPARSIFIERS = ("topk", "randomk")
NOISES = ("gaussian", "laplace")
SINGLES = (*QUANTISERS, *HALVES, *SPARSIFIERS, *NOISES, "powersgd", "clip", "soteria")
PAIRS = (
    *((a, b) for a in (*SPARSIFIERS, "powersgd", *NOISES, "clip") for b in (*QUANTISERS, *HALVES)),
    *((a, b) for a in (*NOISES, "clip") for b in (*SPARSIFIERS, "powersgd")),
    *((a, "clip") for a in (*SPARSIFIERS, "qsgd", "uniform", "ternary", "nf4", "powersgd")),
    *(("clip", b) for b in NOISES),
)
"""Two stages in an order in which systems apply them: clipping or noise, sparsifier or factors, quantiser, half
precision; clipping last as well."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a client sends.

    Args:
        received: What arrives, tensors alone: no levels, masks or codings beside them.
        spec: SPEC of the obfuscation.
    """

    received: Update
    spec: str


def network_of(number: int) -> str:
    """The network of the update with this number."""
    return NETWORKS[number % len(NETWORKS)]


def kinds(number: int) -> tuple[str, ...]:
    """Which obfuscations the update with this number has: of ten, three none, four one, three two of them."""
    at, turn = number % 10, number // 10
    if at < 3:
        return ()
    if at < 7:
        kind = SINGLES[(4 * turn + at - 3) % len(SINGLES)]
        # Soteria takes a backward pass for each of the features before the last layer.
        return (kind if kind != "soteria" or network_of(number) == "lenet" else "topk",)
    return random.Random(number).choice(PAIRS)


def setting(kind: str, norm: float, draw: random.Random) -> str:
    """SPEC of one stage with random settings, as somebody would write them.

    Args:
        kind: What it is.
        norm: L2 norm of the update, for what is given in its units.
        draw: Source of the settings.
    """
    rms = f"{norm * draw.uniform(2e-5, 4e-4):.2g}"
    makers: Mapping[str, Callable[[], str]] = {
        "qsgd": lambda: (
            f"qsgd:levels={draw.choice((2, 3, 4, 8, 16, 32, 64, 256))},norm=max"
            + draw.choice(("", "", "", ",scope=update", f",bucket={draw.choice((128, 512, 4096))}"))
        ),
        "qsgd l2": lambda: (
            f"qsgd:levels={draw.choice((2, 4, 16, 64, 256))}"
            + draw.choice(("", "", f",bucket={draw.choice((128, 512))}"))
        ),
        "uniform": lambda: (
            f"uniform:bits={draw.choice((3, 4, 5, 6, 8))}" + draw.choice(("", ",range=minmax", ",scope=update"))
        ),
        "ternary": lambda: draw.choice(("ternary", "ternary:clip=2.0", "ternary:clip=3.0")),
        "sign": lambda: draw.choice(("sign", "sign:scale=true")),
        "blockwise8": lambda: f"blockwise8:block={draw.choice((256, 1024, 4096))}",
        "nf4": lambda: f"nf4:block={draw.choice((32, 64, 128))}",
        "fp4": lambda: f"fp4:block={draw.choice((32, 64, 128))}",
        "topk": lambda: (
            f"topk:density={draw.choice((0.005, 0.01, 0.02, 0.05, 0.1, 0.25))}" + draw.choice(("", "", ",scope=update"))
        ),
        "randomk": lambda: (
            f"randomk:density={draw.choice((0.01, 0.02, 0.05, 0.1, 0.25, 0.5))}"
            + draw.choice(("", "", ",scope=update"))
        ),
        "gaussian": lambda: (
            "gaussian:"
            + draw.choice((f"relative={draw.choice((0.05, 0.1, 0.3, 0.5, 1, 2.5))}", f"sigma={rms}", "snr_db=20"))
        ),
        "laplace": lambda: (
            "laplace:"
            + draw.choice((f"relative={draw.choice((0.05, 0.1, 0.3, 0.5, 1, 2.5))}", f"sigma={rms}", "snr_db=10"))
        ),
        "powersgd": lambda: f"powersgd:rank={draw.choice((1, 2, 4, 8))}",
        "clip": lambda: f"clip:norm={norm * draw.uniform(0.2, 0.9):.2g}",
        "soteria": lambda: f"soteria:pruning_rate={draw.choice((0.2, 0.4, 0.8))}",
    }
    return makers.get(kind, lambda: kind)()


@lru_cache(maxsize=1)
def pictures_of(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """CIFAR-10's test pictures and their labels."""
    pictures, labels, _, _ = read(data, "cifar10_test4k.npz")
    return tensor(pictures, 32), torch.from_numpy(labels)


def client_of(network: str, seed: int, data: Path) -> Client:
    """A client with a random batch, network and local training; the network as it is drawn, BatchNorm in train mode."""
    draw = random.Random(seed)
    images, labels = pictures_of(data)
    rows = torch.tensor(draw.sample(range(len(images)), draw.choice(BATCHES)))
    mode = "train" if network == "resnet9" else "eval"
    training: LocalTraining = FedSGD(mode=mode)  # type: ignore[arg-type]
    if draw.random() < 0.4:
        training = FedAvg(steps=draw.randint(1, 5), lr=draw.choice((0.003, 0.01)), mode=mode)  # type: ignore[arg-type]
    model = build_model(network, image_shape=(3, 32, 32), classes=10, seed=seed)
    return Client(model, images[rows], labels[rows], classes=10, training=training, name=f"client {seed}")


def sent_by(client: Client, number: int) -> Sent:
    """The client's update through the obfuscation with this number."""
    draw = random.Random(number + 1_000_000)
    before = received = client.update(seed=number)
    stages: list[str] = []
    for kind in kinds(number):
        norm = sum(float(t.double().square().sum()) for t in received.tensors.values()) ** 0.5
        stages.append(setting(kind, norm, draw))
        own = for_client(parse("+".join(stages)), client.model, client.batch, client.training)
        received = own(before, generator=torch.Generator().manual_seed(number))
    return Sent(received=Update(received.tensors), spec="+".join(stages) or "none")
