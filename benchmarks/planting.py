"""The faults that are planted into recorded updates, each as the field makes it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.planted import IMAGENET, NORMED, Setting, drawn, network_of, recorded
from unveil.captures.recording import Arrays, Recording


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """A recorded update with or without a fault.

    Args:
        recording: The update.
        network: The network of `--model`.
        setting: How the client trained.
    """

    recording: Recording
    network: nn.Module
    setting: Setting


def _sent(recording: Recording) -> str:
    """Name of the part that has what the client sent."""
    return next(part for part in ("client", "delta", "gradient") if getattr(recording, part))


def _each(recording: Recording, change: Callable[[str, Tensor], Tensor | None]) -> Recording:
    """The recording with other differences; a tensor of which None is made is left out."""
    part = _sent(recording)
    found: dict[str, Tensor] = {}
    for name, tensor in getattr(recording, part).items():
        before = recording.before[name] if part == "client" else torch.zeros_like(tensor)
        moved = change(name, tensor - before)
        if moved is not None:
            found[name] = before + moved
    order = tuple(name for name in recording.manifest.order if name in found)
    before = {name: tensor for name, tensor in recording.before.items() if name in found}
    return replace(recording, before=before, manifest=replace(recording.manifest, order=order), **{part: found})


def _saying(recording: Recording, **facts: Any) -> Recording:
    return replace(recording, manifest=recording.manifest.declaring(**facts))


def _missing(recording: Recording, draw: random.Random) -> Recording:
    name = draw.choice([n for n, t in recording.before.items() if t.dim() >= 1])
    return _each(recording, lambda n, t: None if n == name else t)


def _extra(recording: Recording, draw: random.Random) -> Recording:
    part, name = _sent(recording), "ema.decay"
    values = {**getattr(recording, part), name: torch.rand(3)}
    manifest = replace(recording.manifest, order=(*recording.manifest.order, name))
    return replace(recording, before={**recording.before, name: torch.rand(3)}, manifest=manifest, **{part: values})


def _reordered(recording: Recording, draw: random.Random) -> Recording:
    part = _sent(recording)
    numbers = {name: str(at) for at, name in enumerate(sorted(recording.manifest.order))}

    def numbered(arrays: Arrays) -> Arrays:
        return {numbers[name]: arrays[name] for name in numbers}

    manifest = replace(recording.manifest, order=tuple(numbers.values()))
    parts = {part: numbered(getattr(recording, part))}
    return replace(recording, before=numbered(recording.before), manifest=manifest, **parts)


def _turned(recording: Recording, draw: random.Random) -> Recording:
    return _each(recording, lambda n, t: -t)


def _other_rate(recording: Recording, draw: random.Random) -> Recording:
    rate = recording.manifest.learning_rate.value or 1.0
    if _sent(recording) == "delta" and draw.random() < 0.3:  # the difference was divided by it
        return _each(recording, lambda n, t: t / rate if t.is_floating_point() else t)
    return _saying(recording, learning_rate=rate * draw.choice((0.1, 10.0, 20.0)))


def _noised(recording: Recording, draw: random.Random) -> Recording:
    """Noise of one size in every array of the state_dict, as Flower's LocalDpMod adds it."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    sigma = draw.choice((0.5, 2.0))
    return _each(
        recording,
        lambda n, t: t + sigma * torch.randn(t.shape, generator=generator) if "running" in n else t,
    )


def _clipped(recording: Recording, draw: random.Random) -> Recording:
    """Everything, counters too, shortened by one factor; counters are whole numbers again afterwards, or not."""
    factor, is_whole = draw.uniform(0.05, 0.8), draw.random() < 0.5

    def shortened(name: str, tensor: Tensor) -> Tensor:
        return (tensor * factor).long() if not tensor.is_floating_point() and is_whole else tensor * factor

    if not is_whole:
        before = {name: t.double() if t.dtype == torch.long else t for name, t in recording.before.items()}
        part = {n: t.double() if t.dtype == torch.long else t for n, t in getattr(recording, _sent(recording)).items()}
        recording = replace(recording, before=before, **{_sent(recording): part})
    said = recording.manifest.obfuscation.value
    clip = "clip:norm=1" if said in (None, "none") else f"{said}+clip:norm=1"
    return _saying(_each(recording, shortened), obfuscation=clip)


def _old_weights(recording: Recording, draw: random.Random) -> Recording:
    """`global/` of other weights: those of another start."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    before = {
        name: t[torch.randperm(len(t), generator=generator)] if t.dim() >= 2 else t
        for name, t in recording.before.items()
    }
    before = {
        n: t.flatten(1)[:, torch.randperm(t[0].numel(), generator=generator)].view_as(t) if t.dim() >= 2 else t
        for n, t in before.items()
    }
    return replace(recording, before=before)


def _overflowed(recording: Recording, draw: random.Random) -> Recording:
    name = draw.choice([n for n, t in recording.before.items() if t.dim() >= 2])

    def burst(n: str, t: Tensor) -> Tensor:
        if n == name:
            t = t.clone()
            t.view(-1)[draw.randrange(t.numel())] = torch.inf
        return t

    return _each(recording, burst)


def _without_statistics(recording: Recording, draw: random.Random) -> Recording:
    return _each(recording, lambda n, t: None if "running" in n or "num_batches" in n else t)


def _of_no_training(recording: Recording, draw: random.Random) -> Recording:
    return _each(recording, lambda n, t: torch.zeros_like(t) if "running" in n or "num_batches" in n else t)


def _other_mode(recording: Recording, draw: random.Random) -> Recording:
    return _saying(recording, mode="eval" if recording.manifest.mode.value == "train" else "train")


def _other_pixels(recording: Recording, draw: random.Random) -> Recording:
    return _saying(recording, normalisation=IMAGENET if recording.manifest.normalisation.value is None else None)


def _same(recording: Recording, draw: random.Random) -> Recording:
    return recording


SENDS_BUFFERS: dict[str, Any] = {"records": "client", "steps": 1, "keeps_buffers": False}

FAULTS: Mapping[str, tuple[Callable[[Recording, random.Random], Recording], tuple[str, ...], dict[str, Any]]] = {
    "missing tensors": (_missing, (), {"keeps_buffers": True}),
    "extra tensors": (_extra, (), {}),
    "reordered tensors": (_reordered, (), {}),
    "sign": (_turned, (), {"records": "delta", "steps": 1}),
    "learning rate": (_other_rate, (), {"records": "delta", "steps": 1}),
    "loss reduction": (lambda r, draw: _saying(r, loss_reduction="mean"), (), {"reduction": "sum"}),
    "missing buffers": (_without_statistics, NORMED, SENDS_BUFFERS),
    "kept buffers": (_of_no_training, NORMED, SENDS_BUFFERS),
    "obfuscated buffers": (_noised, NORMED, SENDS_BUFFERS),
    "changed counters": (_clipped, NORMED, SENDS_BUFFERS),
    "mode": (_other_mode, NORMED, {"steps": 1, "obfuscation": "none"}),
    "dropout": (
        lambda r, draw: _saying(r, mode="eval"),
        ("MLP with dropout",),
        {"mode": "train", "pictures": 2, "steps": 1, "obfuscation": "none"},
    ),
    "normalisation": (
        _other_pixels,
        (),
        {"steps": 1, "obfuscation": "none", "records": "client", "keeps_buffers": False},
    ),
    "stale global weights": (_old_weights, (), {"records": "delta", "steps": 1}),
    "carried momentum": (
        _same,
        ("LeNet", "MLP", "MLP with dropout", "ResNet-18", "VGG-7"),
        {
            "momentum": 0.9,
            "warm": 3,
            "carried": True,
            "steps": 1,
            "records": "client",
            "pictures": 4,
            "obfuscation": "none",
        },
    ),
    "frozen layers": (_same, (), {"obfuscation": "none"}),
    "non-finite values": (_overflowed, (), {"obfuscation": "none"}),
}
"""Name of a fault -> what plants it, networks that can have it (all if empty), and what it needs of the setting."""


def plant(fault: str, seed: int, data: Path) -> Planted:
    """A recorded update with one fault, drawn from a number."""
    planter, networks, needs = FAULTS[fault]
    draw = random.Random(seed)
    setting: Setting = drawn(seed)
    if networks:
        setting = replace(setting, network=draw.choice(networks), mode="train" if networks == NORMED else setting.mode)
    if setting.network not in NORMED and setting.network != "MLP with dropout":
        setting = replace(setting, mode="eval")
    setting = replace(setting, **needs)
    if setting.records != "gradient" and setting.steps == 0:
        setting = replace(setting, steps=1)
    if setting.records == "gradient":
        setting = replace(setting, steps=0, momentum=0.0)
    if fault == "frozen layers":
        layers = list(dict.fromkeys(n.rpartition(".")[0] for n, _ in network_of(setting).named_parameters()))
        setting = replace(setting, frozen=layers[draw.randrange(len(layers) - 1)] + ".")
    if fault == "mode" and draw.random() < 0.5:
        setting = replace(setting, mode="eval", records="gradient", steps=0, keeps_buffers=True, momentum=0.0)
    recording, network = recorded(setting, data)
    return Planted(recording=planter(recording, draw), network=network, setting=setting)


def sound(seed: int, data: Path) -> Planted:
    """A recorded update without a fault."""
    setting = drawn(seed)
    recording, network = recorded(setting, data)
    return Planted(recording=recording, network=network, setting=setting)
