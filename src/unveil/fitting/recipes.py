"""What clients are simulated for the pairs that enhancers learn from, and which of them for which enhancer."""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = 1000  # of the simulated clients' models; every picture of a client has a class of its own


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What clients are simulated; each is drawn from these lists, where what stands twice is drawn twice as often.

    Args:
        obfuscations: SPECs of obfuscations.
        trainings: SPECs of local trainings.
        models: Names of victims, each with new random weights.
        attacks: SPECs of the attacks that rebuild the pictures.
        sizes: Heights and widths of the pictures, pixels.
        crops: Share of the clients whose pictures are cut out of larger ones rather than reduced.
        batch: Pictures of a client.
    """

    obfuscations: tuple[str, ...]
    trainings: tuple[str, ...] = ("fedsgd",)
    models: tuple[str, ...] = ("lenet",)
    attacks: tuple[str, ...] = ("unveil:steps=30",)
    sizes: tuple[int, ...] = (64,)
    crops: float = 0.5
    batch: int = 16


STRENGTHS = Recipe(
    obfuscations=(
        *("none", "none", "qsgd:levels=64,norm=max", "qsgd:levels=32,norm=max", "qsgd:levels=16,norm=max"),
        *("qsgd:levels=16,norm=max", "qsgd:levels=8,norm=max", "qsgd:levels=8,norm=max", "qsgd:levels=4,norm=max"),
        *("qsgd:levels=2,norm=max", "qsgd:levels=2,norm=max", "gaussian:relative=0.5", "gaussian:relative=1"),
        *("gaussian:relative=2.5", "gaussian:relative=5", "topk:density=0.1", "topk:density=0.05"),
        *("topk:density=0.05", "topk:density=0.02", "topk:density=0.01", "topk:density=0.05+qsgd:levels=16,norm=max"),
    ),
    trainings=("fedsgd", "fedsgd", "fedsgd", "fedsgd", "fedavg:steps=5,lr=0.003"),
    models=(*("lenet",) * 18, "vgg7", "resnet18"),
    attacks=("unveil:steps=25", "unveil:steps=40", "unveil:steps=60"),
    sizes=(64, 64, 64, 64, 64, 32, 96),
)
"""Every kind of obfuscation from mild to strong, on small pictures."""

FINE = Recipe(
    obfuscations=(
        *("none", "none", "qsgd:levels=64,norm=max", "qsgd:levels=32,norm=max", "qsgd:levels=16,norm=max"),
        *("qsgd:levels=16,norm=max", "qsgd:levels=8,norm=max", "topk:density=0.1"),
    ),
    trainings=("fedsgd", "fedsgd", "fedsgd", "fedavg:steps=5,lr=0.003"),
    attacks=("unveil:steps=50", "unveil:steps=100"),
    sizes=(128,),
)
"""Mild obfuscations, whole pictures and the attack's full budget: what is nearly right must not be made worse."""

RESTORATION = (*(STRENGTHS,) * 9, FINE)
"""For enhancers that restore; each client is of one of them."""

DESTRUCTION = Recipe(
    obfuscations=(
        *("qsgd:levels=2,norm=max", "qsgd:levels=2,norm=max", "topk:density=0.01", "topk:density=0.01"),
        *("gaussian:relative=10", "topk:density=0.02", "qsgd:levels=4,norm=max", "topk:density=0.005"),
    ),
    trainings=("fedsgd", "fedsgd", "fedsgd", "fedsgd", "fedavg:steps=20,lr=0.003"),
    sizes=(128,),
    crops=0.0,
)
"""Channels so strong that pixels are gone, for enhancers that draw what a picture means: half a dog has no class."""
