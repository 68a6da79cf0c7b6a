"""Clipping of the whole update to a norm, alone and with the noise that makes it differentially private."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unveil.core import Family, Misfit, Update
from unveil.errors import UsageError
from unveil.obfuscations.noise import Gaussian
from unveil.obfuscations.observation import squared
from unveil.spec import spec_of
from unveil.thin import Candidate, scaled, square_norm


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Shorten the whole update to an L2 norm if it is longer. Wire cost: 32 bits a value.

    Args:
        norm: The largest norm sent; greater than 0.

    Reference:
        Abadi et al., Deep Learning with Differential Privacy, CCS 2016.
    """

    name: ClassVar[str] = "clip"
    family: ClassVar[Family] = "perturb"
    norm: float

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise UsageError(f"Clip: expected norm > 0, got {self.norm:g}; use the median norm of real updates")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Shorten; see `Obfuscation`."""
        share = _share(update.tensors, self.norm)
        return Update({name: t * share for name, t in update.tensors.items()}, update.coding)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Squared error of the clipped candidate: the direction counts, a length beyond the norm does not."""
        explained = squared(received, sent_only=sent_only)
        return lambda candidate: explained(self.rescale(candidate))

    def rescale(self, candidate: Candidate) -> Candidate:
        """What clipping does to a candidate."""
        return scaled(candidate, _share(candidate, self.norm))

    @property
    def loses_scale(self) -> bool:
        """A longer update arrives shorter; see `Shrinking`."""
        return True

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Clip the whole update, then add Gaussian noise: one client's contribution under user-level privacy.

    For DP-SGD's clipping of every single example, see the local training's own `clip` and `noise`.
    Wire cost: 32 bits a value.

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
        if not (self.clip > 0 and self.noise > 0):
            raise UsageError(
                f"DPSGD: expected clip > 0 and noise > 0, got clip={self.clip:g}, noise={self.noise:g}; "
                "use the obfuscation `clip` for clipping without noise"
            )

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Clip and perturb; see `Obfuscation`."""
        return self._noise(self._clip(update, generator=generator), generator=generator)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """``(clipped x - y)^2 / sigma^2``; see `Obfuscation`."""
        explained = self._noise.misfit(received, sent_only=sent_only)
        return lambda candidate: explained(self._clip.rescale(candidate))

    @property
    def loses_scale(self) -> bool:
        """A longer update arrives shorter; see `Shrinking`."""
        return True

    __str__ = spec_of

    @property
    def _clip(self) -> Clip:
        return Clip(norm=self.clip)

    @property
    def _noise(self) -> Gaussian:
        return Gaussian(sigma=self.noise * self.clip)


def _share(candidate: Candidate, norm: float) -> Tensor:
    """The factor that brings a candidate's norm to at most the given one."""
    length = torch.stack([square_norm(value) for value in candidate.values()]).sum().clamp_min(1e-30).sqrt()
    return (norm / length).clamp(max=1.0)
