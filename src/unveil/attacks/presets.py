"""The published attacks, each a handful of settings of the one loop in `matching`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Generator
from torch.nn import Module

from unveil.attacks.matching.latents import Code, Pixels
from unveil.attacks.matching.loop import Matching
from unveil.attacks.matching.optimisers import LBFGS, Adam
from unveil.attacks.matching.regularisers import TotalVariation
from unveil.attacks.separation.attack import FeatureInversion
from unveil.attacks.separation.with_restorer import RestoredFeatureInversion
from unveil.core.bounds import not_negative, positive, whole
from unveil.core.errors import UsageError
from unveil.core.protocols import Attack, Knowledge
from unveil.core.registry import build, spec_of
from unveil.core.types import Reconstruction, Update, Watch


@runtime_checkable
class Preset(Protocol):
    """Settings that say how the loop is to run."""

    def matching(self) -> Matching:
        """The settings as those of the loop."""
        ...


def _run(
    self: Preset,
    model: Module,
    update: Update,
    knowledge: Knowledge,
    *,
    generator: Generator,
    watch: Watch | None = None,
) -> Reconstruction:
    """Run the attack; see `Attack`. Every preset uses it as its `__call__`."""
    return self.matching()(model, update, knowledge, generator=generator, watch=watch)


@dataclass(frozen=True, kw_only=True)
class ROG:
    """Search a small code, match updates by squared error: stages 1 and 2 of the published method.

    Args:
        steps: Adam steps; 100 as published, 1000 for `sign`.
        factor: The code is this much smaller than the picture a side; 4 as published.
        objective: `squared` as published and blind to the obfuscation, or `misfit`: its observation model,
            which the paper's section 3.2 suggests and its release lacks.
        lr: Learning rate at the start.
        final_lr: Learning rate at the end of the cosine.

    Reference:
        Yue et al., Gradient Obfuscation Gives a False Sense of Security in Federated Learning, USENIX Security 2023.
    """

    name: ClassVar[str] = "rog"
    steps: int = 100
    factor: float = 4
    objective: Literal["squared", "misfit"] = "squared"
    lr: float = 0.05
    final_lr: float = 0.005

    def __post_init__(self) -> None:
        _check("ROG", self.steps, self.lr)
        not_negative("ROG", "final_lr", self.final_lr, "leave it out for the published value")
        if not 1 <= self.factor <= 1e6:
            bound = "factor >= 1" if not self.factor >= 1 else "factor <= 1e+06"
            raise UsageError(f"ROG: expected {bound}, got {self.factor:g}; 4 is the published value")

    def matching(self) -> Matching:
        """The settings as those of the loop."""
        return Matching(
            latent=Code(factor=self.factor),
            objective=self.objective,
            optimiser=Adam(lr=self.lr, decay="cosine", final_lr=self.final_lr),
            steps=self.steps,
        )

    __call__ = _run
    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class InvertingGradients:
    """Search the pixels with signed Adam, cosine distance and total variation.

    Args:
        steps: Adam steps.
        lr: Learning rate at the start; times 0.1 after 3/8, 5/8 and 7/8 of the steps.
        tv: Weight of the total variation.

    Reference:
        Geiping et al., Inverting Gradients - How Easy Is It to Break Privacy in Federated Learning?, NeurIPS 2020.
    """

    name: ClassVar[str] = "inverting_gradients"
    steps: int = 200
    lr: float = 0.1
    tv: float = 0.2

    def __post_init__(self) -> None:
        _check("InvertingGradients", self.steps, self.lr)
        not_negative("InvertingGradients", "tv", self.tv, "0 switches it off")

    def matching(self) -> Matching:
        """The settings as those of the loop."""
        return Matching(
            latent=Pixels(start="normal", box=True),
            objective="cosine",
            optimiser=Adam(lr=self.lr, decay="steps", signed=True),
            steps=self.steps,
            prior=TotalVariation(weight=self.tv),
        )

    __call__ = _run
    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class DLG:
    """Search pixels, and unknown labels with them, by L-BFGS on the squared error.

    Args:
        steps: L-BFGS steps, each of up to 20 evaluations.
        lr: Length of each move.

    Reference:
        Zhu, Liu and Han, Deep Leakage from Gradients, NeurIPS 2019.
    """

    name: ClassVar[str] = "dlg"
    steps: int = 300
    lr: float = 1.0

    def __post_init__(self) -> None:
        _check("DLG", self.steps, self.lr)

    def matching(self) -> Matching:
        """The settings as those of the loop."""
        return Matching(
            latent=Pixels(start="normal"),
            objective="squared",
            optimiser=LBFGS(lr=self.lr),
            steps=self.steps,
            soft_labels=True,
        )

    __call__ = _run
    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class IDLG:
    """DLG with the labels read off the last layer's gradient first, where they are not known.

    Args:
        steps: L-BFGS steps, each of up to 20 evaluations.
        lr: Length of each move.

    Reference:
        Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020.
    """

    name: ClassVar[str] = "idlg"
    steps: int = 300
    lr: float = 1.0

    def __post_init__(self) -> None:
        _check("IDLG", self.steps, self.lr)

    def matching(self) -> Matching:
        """The settings as those of the loop."""
        return Matching(
            latent=Pixels(start="normal"),
            objective="squared",
            optimiser=LBFGS(lr=self.lr),
            steps=self.steps,
        )

    __call__ = _run
    __str__ = spec_of


CATALOGUE: Mapping[str, type] = {
    cls.name: cls for cls in (FeatureInversion, RestoredFeatureInversion, ROG, InvertingGradients, DLG, IDLG)
}


def parse(text: str) -> Attack:
    """Build an attack from its SPEC, such as `rog:steps=50`."""
    attack: Attack = build("attack", CATALOGUE, text)
    return attack


def _check(who: str, steps: int, lr: float) -> None:
    whole(who, "steps", steps, 1, 1_000_000, "100 is a usual number")
    positive(who, "lr", lr, "leave it out for the published value")
