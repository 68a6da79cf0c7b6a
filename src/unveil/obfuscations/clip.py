"""Clipping of the whole update to a norm, alone and with the noise that makes it differentially private."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.bounds import positive
from unveil.core.factored import Candidate
from unveil.core.protocols import Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.obfuscations.likelihoods import in_own_units, squared
from unveil.obfuscations.noise import Gaussian
from unveil.obfuscations.numerics import as_factor, energy
from unveil.obfuscations.wire import scaled

MEDIAN = "use the median norm of real updates"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Shorten the whole update to an L2 norm if it is longer.

    Wire cost: that of what comes in, since levels of a quantiser stay levels of it; 32 bits a value alone.

    Args:
        norm: The largest norm sent; greater than 0.

    Reference:
        Abadi et al., Deep Learning with Differential Privacy, CCS 2016.
    """

    name: ClassVar[str] = "clip"
    family: ClassVar[Family] = "perturb"
    is_deterministic: ClassVar[bool] = True
    norm: float

    def __post_init__(self) -> None:
        positive("Clip", "norm", self.norm, MEDIAN)

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Shorten; see `Obfuscation`."""
        return scaled(update, _share(update.tensors, self.norm))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Squared error of the clipped candidate: the direction counts, a length beyond the norm does not."""
        explained = squared(received, in_own_units(received), sent_only=sent_only)
        return lambda candidate: explained(self.rescale(candidate))

    def rescale(self, candidate: Candidate) -> Candidate:
        """What clipping does to a candidate; see `Rescaler`."""
        share = _share(candidate, self.norm)
        return {name: value * as_factor(share, value) for name, value in candidate.items()}

    @property
    def scale_unknown(self) -> bool:
        """A longer update arrives shorter; see `MayRescale`."""
        return True

    @property
    def largest_norm(self) -> float:
        """The norm; see `Bounding`."""
        return self.norm

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Clip the whole update, then add Gaussian noise: one client's contribution under user-level privacy.

    For DP-SGD's clipping of every single example, see the local training's own `clip` and `noise`.
    Behind a sparsifier both act on what was sent. Wire cost: 32 bits a value.

    Args:
        clip: The largest norm sent; greater than 0.
        noise: Noise multiplier; the noise has standard deviation noise * clip. Greater than 0.

    Reference:
        McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018.
    """

    name: ClassVar[str] = "dpsgd"
    family: ClassVar[Family] = "perturb"
    clip: float
    noise: float

    def __post_init__(self) -> None:
        positive("DPSGD", "clip", self.clip, MEDIAN)
        positive("DPSGD", "noise", self.noise, "use the obfuscation `clip` for clipping without noise")
        positive("DPSGD", "noise * clip", self.noise * self.clip, "it is the noise's standard deviation")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Clip and perturb; see `Obfuscation`."""
        for part in self.parts:
            update = part(update, generator=generator)
        return update

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """``(clipped x - y)^2 / sigma^2``; see `Obfuscation`."""
        clipping, noise = self.parts
        explained = noise.misfit(received, sent_only=sent_only)
        return lambda candidate: explained(clipping.rescale(candidate))

    @property
    def scale_unknown(self) -> bool:
        """A longer update arrives shorter; see `MayRescale`."""
        return True

    @property
    def parts(self) -> tuple[Clip, Gaussian]:
        """Clipping, and the noise; see `Composite`."""
        return Clip(norm=self.clip), Gaussian(sigma=self.noise * self.clip)

    __str__ = spec_of


def _share(candidate: Candidate, norm: float) -> Float[Tensor, ""]:
    """The factor that brings a candidate's norm to at most the given one, float64."""
    squares = [energy(value) for value in candidate.values() if value.shape.numel()]
    if not squares:
        return torch.ones((), dtype=torch.float64)
    return (norm / torch.stack(squares).sum().clamp_min(1e-60).sqrt()).clamp(max=1.0)
