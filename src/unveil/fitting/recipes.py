"""Recipes of the clients that are simulated to train enhancers: those for restorers and those for generators."""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = 1000  # classes of the simulated clients' models; each picture of a client has another class


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Lists from which a simulated client is drawn; an item that is listed twice is drawn twice as often.

    Args:
        obfuscations: SPECs of obfuscations.
        trainings: SPECs of local trainings.
        models: Names of models; each client gets new random weights.
        attacks: SPECs of the attacks that rebuild the pictures.
        sizes: Sides of the pictures in pixels.
        crops: Share of the clients whose pictures are cut out of larger ones; those of the others are reduced.
        batch: Number of pictures of a client.
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
"""All kinds of obfuscations, from mild to strong, on small pictures."""

FINE = Recipe(
    obfuscations=(
        *("none", "none", "qsgd:levels=64,norm=max", "qsgd:levels=32,norm=max", "qsgd:levels=16,norm=max"),
        *("qsgd:levels=16,norm=max", "qsgd:levels=8,norm=max", "topk:density=0.1"),
    ),
    trainings=("fedsgd", "fedsgd", "fedsgd", "fedavg:steps=5,lr=0.003"),
    attacks=("unveil:steps=50", "unveil:steps=100"),
    sizes=(128,),
)
"""Mild obfuscations, larger pictures and many steps of the attack, so that a restorer learns not to make good pictures
worse."""

RESTORATION = (*(STRENGTHS,) * 9, FINE)
"""The recipes for restorers; each client follows one of them."""

DESTRUCTION = Recipe(
    obfuscations=(
        *("qsgd:levels=2,norm=max", "qsgd:levels=2,norm=max", "topk:density=0.01", "topk:density=0.01"),
        *("gaussian:relative=10", "topk:density=0.02", "qsgd:levels=4,norm=max", "topk:density=0.005"),
    ),
    trainings=("fedsgd", "fedsgd", "fedsgd", "fedsgd", "fedavg:steps=20,lr=0.003"),
    sizes=(128,),
    crops=0.0,
)
"""For generators: obfuscations so strong that few pixels can be recovered. Pictures are not cropped, because a part of
a picture may not show its class."""
