"""Additive noise on the whole update: Gaussian and Laplace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.protocols import Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.obfuscations.draws import laplace_like, normal_like
from unveil.obfuscations.groups import each_group
from unveil.obfuscations.likelihoods import penalised, squared
from unveil.obfuscations.noise_size import NoiseSize
from unveil.obfuscations.numerics import wide
from unveil.obfuscations.variances import Variance
from unveil.obfuscations.wire import recoded

Draw = Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]
"""Values -> standard noise of their shape."""


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Add independent Gaussian noise to every entry sent. Without clipping it has no differential-privacy guarantee.

    Wire cost: 32 bits a value, also behind a quantiser, whose levels it leaves.

    Args:
        sigma: Standard deviation of the noise; give exactly one of this, `relative` and `snr_db`.
        relative: The same as a multiple of the standard deviation of each tensor's own entries, of those sent.
        snr_db: Signal-to-noise ratio in dB, ``10 log10(mean square / variance)``: the mean square of each tensor's own
            entries, of those sent, over the variance of the noise; from -200 to 200. 20 dB is noise of a tenth of the
            root mean square. Each tensor has noise of its own size.

    Reference:
        Zhu, Liu and Han, Deep Leakage from Gradients, NeurIPS 2019 (noise as a defence). Yue et al., Gradient
        Obfuscation Gives a False Sense of Security in Federated Learning, USENIX Security 2023, gives noise by its
        signal-to-noise ratio; that the ratio is one for each tensor is our reading.
    """

    name: ClassVar[str] = "gaussian"
    family: ClassVar[Family] = "perturb"
    sigma: float | None = None
    relative: float | None = None
    snr_db: float | None = None

    def __post_init__(self) -> None:
        _ = self.size

    @property
    def size(self) -> NoiseSize:
        """What the settings say of the size of the noise."""
        return NoiseSize(who="Gaussian", sigma=self.sigma, relative=self.relative, snr_db=self.snr_db)

    @property
    def ratio(self) -> float | None:
        """Standard deviation of the noise over the size of a tensor's own entries; see `Noise`."""
        return self.size.ratio

    @property
    def gaussian_sigma(self) -> float | None:
        """The standard deviation where a setting says it; see `AddsGaussian`."""
        return self.sigma

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Perturb; see `Obfuscation`."""
        return _perturbed(update, self.size, lambda t: normal_like(t, generator))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """``(x - y)^2 / sigma^2``; see `Obfuscation`."""
        sigmas = self.size.in_received(received)
        weights = {name: sigma**-2 if sigma > 0 else 1.0 for name, sigma in sigmas.items()}
        return squared(received, weights, sent_only=sent_only)

    def variances(self, received: Update) -> Mapping[str, Variance]:
        """The noise's, the same for every entry of a tensor; see `Varying`."""
        return {name: Variance(constant=s**2) for name, s in self.size.in_received(received).items()}

    def told_from(self, spreads: Mapping[str, float]) -> dict[str, float]:
        """Its standard deviation by tensor, from the size of entry and noise together; see `Noise`."""
        return self.size.told_from(spreads)

    def reach(self, received: Update) -> Mapping[str, float]:
        """Three standard deviations; see `Moving`."""
        return {name: 3 * sigma for name, sigma in self.size.in_received(received).items()}

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class Laplace:
    """Add independent Laplace noise to every entry sent. Without clipping it has no differential-privacy guarantee.

    Wire cost: 32 bits a value, also behind a quantiser, whose levels it leaves.

    Args:
        sigma: Standard deviation of the noise (its scale parameter times the square root of 2); give exactly one of
            this, `relative` and `snr_db`.
        relative: The same as a multiple of the standard deviation of each tensor's own entries, of those sent.
        snr_db: Signal-to-noise ratio in dB, ``10 log10(mean square / variance)``: the mean square of each tensor's own
            entries, of those sent, over the variance of the noise; from -200 to 200. 20 dB is noise of a tenth of the
            root mean square. Each tensor has noise of its own size.

    Reference:
        Zhu, Liu and Han, Deep Leakage from Gradients, NeurIPS 2019 (noise as a defence). Yue et al., Gradient
        Obfuscation Gives a False Sense of Security in Federated Learning, USENIX Security 2023, gives noise by its
        signal-to-noise ratio; that the ratio is one for each tensor is our reading.
    """

    name: ClassVar[str] = "laplace"
    family: ClassVar[Family] = "perturb"
    sigma: float | None = None
    relative: float | None = None
    snr_db: float | None = None

    def __post_init__(self) -> None:
        _ = self.size

    @property
    def size(self) -> NoiseSize:
        """What the settings say of the size of the noise."""
        return NoiseSize(who="Laplace", sigma=self.sigma, relative=self.relative, snr_db=self.snr_db)

    @property
    def ratio(self) -> float | None:
        """Standard deviation of the noise over the size of a tensor's own entries; see `Noise`."""
        return self.size.ratio

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Perturb; see `Obfuscation`."""
        return _perturbed(update, self.size, lambda t: laplace_like(t, generator))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """``|x - y|`` in units of the noise's scale; see `Obfuscation`."""
        sigmas = self.size.in_received(received)
        penalties = {n: partial(_absolute, scale=s / math.sqrt(2)) for n, s in sigmas.items() if s > 0}
        return penalised(received, penalties, sent_only=sent_only)

    def variances(self, received: Update) -> Mapping[str, Variance]:
        """The noise's, the same for every entry of a tensor; see `Varying`."""
        return {name: Variance(constant=s**2) for name, s in self.size.in_received(received).items()}

    def told_from(self, spreads: Mapping[str, float]) -> dict[str, float]:
        """Its standard deviation by tensor, from the size of entry and noise together; see `Noise`."""
        return self.size.told_from(spreads)

    def reach(self, received: Update) -> Mapping[str, float]:
        """Three standard deviations; see `Moving`."""
        return {name: 3 * sigma for name, sigma in self.size.in_received(received).items()}

    __str__ = spec_of


def _perturbed(update: Update, size: NoiseSize, draw: Draw) -> Update:
    def perturb(rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups entries"]:
        values = wide(rows)
        return values + size.added_to(values) * draw(values)

    tensors = each_group(update.tensors, "tensor", perturb, masks=update.masks())
    return recoded(update, tensors, bits_per_value=None)


def _absolute(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    return (x - y).abs() / scale
