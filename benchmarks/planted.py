"""Sound recorded updates: networks, batches and local trainings drawn from one number."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.random_updates import pictures_of
from unveil.captures.manifest import declared
from unveil.captures.recording import Recording
from unveil.clients.models import build_model
from unveil.core.update import Update
from unveil.obfuscations import parse

CLASSES, SHAPE = 10, (3, 32, 32)
BATCHES = (4, 8, 16)
FIRST_HELD_OUT = 1000
"""Constants of the doctor were chosen on updates with smaller numbers, and on `NETWORKS` alone."""
OBFUSCATIONS = ("none", "none", "none", "fp16", "qsgd:levels=16,norm=max", "topk:density=0.05")
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
NORMALISATIONS = (None, IMAGENET, {"mean": [0.5] * 3, "std": [0.5] * 3})


def perceptron(dropout: float = 0.0) -> nn.Module:
    """An MLP of three layers."""
    drop = [nn.Dropout(dropout)] if dropout else []
    hidden = [nn.Linear(3072, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), *drop]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, CLASSES))


def grouped() -> nn.Module:
    """A small network with GroupNorm."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GroupNorm(8, 64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)),
    )


class Residual(nn.Module):
    """A small residual network with BatchNorm."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.block = nn.Sequential(
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
        )
        self.down = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of pictures."""
        maps = self.stem(x)
        maps = self.down(torch.relu(maps + self.block(maps)))
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def smooth() -> nn.Module:
    """A small network with BatchNorm, SiLU and strides."""
    units = [(3, 16), (16, 32), (32, 48)]
    layers: list[nn.Module] = []
    for inside, out in units:
        layers += [nn.Conv2d(inside, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES))


def torchvision_resnet18() -> nn.Module:
    """Torchvision's ResNet-18."""
    from torchvision.models import resnet18

    network: nn.Module = resnet18(num_classes=CLASSES)
    return network


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "LeNet": lambda: build_model("lenet", image_shape=SHAPE, classes=CLASSES, seed=int(torch.randint(1 << 30, ()))),
    "MLP": perceptron,
    "MLP with dropout": lambda: perceptron(0.5),
    "GroupNorm": grouped,
    "ResNet, BatchNorm": Residual,
    "ResNet-18": torchvision_resnet18,
}
HELD_OUT: Mapping[str, Callable[[], nn.Module]] = {
    "VGG-7": lambda: build_model("vgg7", image_shape=SHAPE, classes=CLASSES, seed=int(torch.randint(1 << 30, ()))),
    "SiLU, BatchNorm": smooth,
}
"""Networks on which no constant of the doctor was chosen."""
NORMED = ("ResNet, BatchNorm", "ResNet-18", "SiLU, BatchNorm")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a client trained and what it recorded; a fault is planted by changing one.

    Args:
        network: Its name in `NETWORKS`.
        seed: Of weights, batch and masks.
        pictures: Number of pictures, all in each step.
        steps: Local steps; 0 for a recorded gradient.
        lr: Learning rate.
        momentum: Momentum.
        mode: Mode of the network.
        normalisation: Of pixels in [0, 1]; None for none.
        reduction: Of the loss.
        obfuscation: SPEC for the parameters.
        records: `client`, `delta` or `gradient`.
        keeps_buffers: Whether the client keeps its buffers.
        warm: Steps before the round, after which the weights are recorded.
        carried: Whether the optimiser goes on with the momentum of these steps.
        frozen: Name of the first parameters that are not trained; empty for none.
    """

    network: str
    seed: int
    pictures: int = 8
    steps: int = 1
    lr: float = 0.05
    momentum: float = 0.0
    mode: str = "train"
    normalisation: Mapping[str, list[float]] | None = None
    reduction: str = "mean"
    obfuscation: str = "none"
    records: str = "client"
    keeps_buffers: bool = False
    warm: int = 0
    carried: bool = False
    frozen: str = ""


def drawn(seed: int) -> Setting:
    """A setting as somebody's federation may have it."""
    draw = random.Random(seed)
    networks = list(NETWORKS) if seed < FIRST_HELD_OUT else [*NETWORKS, *HELD_OUT]
    network = networks[seed % len(networks)]
    is_gradient = draw.random() < 0.3
    return Setting(
        network=network,
        seed=seed,
        pictures=draw.choice(BATCHES),
        steps=0 if is_gradient else draw.choice((1, 1, 1, 2, 5)),
        lr=draw.choice((0.003, 0.01, 0.05)),
        momentum=0.0 if is_gradient else draw.choice((0.0, 0.0, 0.9)),
        mode="train"
        if network in NORMED
        else "eval"
        if network != "MLP with dropout"
        else draw.choice(("eval", "train")),
        normalisation=draw.choice(NORMALISATIONS),
        reduction=draw.choice(("mean", "mean", "mean", "sum")),
        obfuscation=draw.choice(OBFUSCATIONS),
        records="gradient" if is_gradient else draw.choice(("client", "delta")),
        keeps_buffers=is_gradient,
    )


def network_of(setting: Setting) -> nn.Module:
    """The network with its first weights."""
    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        return {**NETWORKS, **HELD_OUT}[setting.network]()


def batch_of(setting: Setting, data: Path, *, offset: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures, normalised as the client does it, and labels."""
    images, labels = pictures_of(data)
    rows = torch.tensor(random.Random(setting.seed + 7919 * offset).sample(range(len(images)), setting.pictures))
    given = setting.normalisation or {"mean": [0.0] * 3, "std": [1.0] * 3}
    mean, std = (torch.tensor(given[key])[:, None, None] for key in ("mean", "std"))
    return (images[rows] - mean) / std, labels[rows]


def recorded(setting: Setting, data: Path) -> tuple[Recording, nn.Module]:
    """Train as the setting says with torch's own optimiser, and record it; the network is as its factory builds it."""
    network, fresh = network_of(setting), network_of(setting)
    network.train(setting.mode == "train")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not (setting.frozen and name.startswith(setting.frozen)))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=setting.lr, momentum=setting.momentum)

    def step(offset: int) -> None:
        images, labels = batch_of(setting, data, offset=offset)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), labels, reduction=setting.reduction).backward()
        optimiser.step()

    with torch.random.fork_rng():
        torch.manual_seed(setting.seed + 1)
        for at in range(setting.warm):
            step(1 + at)
        if not setting.carried:
            optimiser = torch.optim.SGD(trained, lr=setting.lr, momentum=setting.momentum)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for _ in range(max(setting.steps, 1)):
            step(0)
    return _recording(setting, network, before), fresh


def _recording(setting: Setting, network: nn.Module, before: Mapping[str, Tensor]) -> Recording:
    parameters = {name for name, _ in network.named_parameters()}
    after = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if setting.records == "gradient":
        change = {n: -p.grad if p.grad is not None else torch.zeros_like(p) for n, p in network.named_parameters()}
    else:
        change = {name: after[name] - before[name] for name in after}
    sent = parse(setting.obfuscation)(
        Update({name: change[name] for name in change if name in parameters}),
        generator=torch.Generator().manual_seed(setting.seed),
    ).tensors
    change |= sent
    if setting.keeps_buffers:
        change = {name: change[name] for name in change if name in parameters}
    values = {name: before[name] + change[name] for name in change}
    part: dict[str, Any] = {
        "client": {"client": values},
        "delta": {"delta": change},
        "gradient": {"gradient": {name: -t for name, t in change.items()}},
    }[setting.records]
    return Recording(
        path=Path("update.safetensors"),
        digest="0" * 64,
        manifest=replace(declared(**facts_of(setting)), order=tuple(change)),
        before={name: before[name] for name in (change if setting.records == "gradient" else before) if name in change},
        **part,
    )


def facts_of(setting: Setting) -> dict[str, Any]:
    """What an honest manifest says."""
    local = {"learning_rate": setting.lr, "steps": setting.steps, "optimiser": "sgd", "momentum": setting.momentum}
    return {
        **({} if setting.records == "gradient" else local),
        "examples": setting.pictures,
        "batch_size": setting.pictures,
        "loss_reduction": setting.reduction,
        "mode": setting.mode,
        "normalisation": None if setting.normalisation is None else dict(setting.normalisation),
        "obfuscation": setting.obfuscation,
        "buffers": "kept" if setting.keeps_buffers else "sent",
        "image_shape": list(SHAPE),
        "classes": CLASSES,
    }
