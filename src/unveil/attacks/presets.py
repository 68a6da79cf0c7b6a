"""The published attacks, each a few settings of the loop in `matching`, and the catalogue of all attacks."""

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
from unveil.core.reconstruction import Reconstruction
from unveil.core.registry import build, spec_of
from unveil.core.update import Update
from unveil.core.watch import Watch


@runtime_checkable
class Preset(Protocol):
    """The settings of a published attack."""

    def matching(self) -> Matching:
        """Return the settings of the loop that runs this attack."""
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
    """Search a code that is smaller than the picture, by squared error: stages 1 and 2 of the published method.

    Args:
        steps: Steps of Adam, 1 to 1,000,000; the paper takes 100, and 1000 for `sign`.
        factor: Ratio of the picture's side to the code's, 1 to 1e6; the paper takes 4.
        objective: `squared`, as in the paper, which takes no account of the obfuscation; or `misfit`, the obfuscation's
            observation model, which section 3.2 of the paper suggests and its release does not have.
        lr: Learning rate of the first step, in pixel values a step; more than 0.
        final_lr: Learning rate at the end of the cosine, in pixel values a step; at least 0.

    Raises:
        UsageError: A value outside its range.

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
        """Return the settings of the loop that runs this attack."""
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
        steps: Steps of Adam, 1 to 1,000,000.
        lr: Learning rate of the first step, in pixel values a step; more than 0. It is multiplied by 0.1 after 3/8, 5/8
            and 7/8 of the steps.
        tv: Weight of the total variation, at least 0; 0 switches it off.

    Raises:
        UsageError: A value outside its range.

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
        """Return the settings of the loop that runs this attack."""
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
    """Search the pixels, and the labels where they are not known, by L-BFGS on the squared error.

    Args:
        steps: Steps of L-BFGS, 1 to 1,000,000; each evaluates the loss at most 20 times.
        lr: Factor of every move that L-BFGS proposes, more than 0.

    Raises:
        UsageError: A value outside its range.

    Reference:
        Zhu, Liu and Han, Deep Leakage from Gradients, NeurIPS 2019.
    """

    name: ClassVar[str] = "dlg"
    steps: int = 300
    lr: float = 1.0

    def __post_init__(self) -> None:
        _check("DLG", self.steps, self.lr)

    def matching(self) -> Matching:
        """Return the settings of the loop that runs this attack."""
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
    """DLG, except that labels which are not known are inferred from the last layer's gradient before the search.

    Args:
        steps: Steps of L-BFGS, 1 to 1,000,000; each evaluates the loss at most 20 times.
        lr: Factor of every move that L-BFGS proposes, more than 0.

    Raises:
        UsageError: A value outside its range.

    Reference:
        Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020.
    """

    name: ClassVar[str] = "idlg"
    steps: int = 300
    lr: float = 1.0

    def __post_init__(self) -> None:
        _check("IDLG", self.steps, self.lr)

    def matching(self) -> Matching:
        """Return the settings of the loop that runs this attack."""
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
    """Build an attack from its SPEC, such as `rog:steps=50`.

    Args:
        text: The SPEC: a name of the catalogue and settings, or `module:Class` and settings.

    Raises:
        UsageError: There is no such attack, or it has no such setting.
    """
    attack: Attack = build("attack", CATALOGUE, text)
    return attack


def _check(who: str, steps: int, lr: float) -> None:
    """Raise a `UsageError` unless the steps and the learning rate are in their ranges."""
    whole(who, "steps", steps, 1, 1_000_000, "100 is a usual number")
    positive(who, "lr", lr, "leave it out for the published value")
