"""Additive noise on the whole update: Gaussian and Laplace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.bounds import positive
from unveil.core.errors import UsageError
from unveil.core.protocols import Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.obfuscations.draws import laplace_like, normal_like
from unveil.obfuscations.groups import each_group, packed
from unveil.obfuscations.likelihoods import penalised, squared
from unveil.obfuscations.numerics import rms, spread, wide
from unveil.obfuscations.variances import Variance
from unveil.obfuscations.wire import recoded

Draw = Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]
"""Values -> standard noise of their shape."""

MANY = 30  # values whose spread is told to 13 % (one standard error)


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Add independent Gaussian noise to every entry sent. Without clipping it has no differential-privacy guarantee.

    Wire cost: 32 bits a value, also behind a quantiser, whose levels it leaves.

    Args:
        sigma: Standard deviation of the noise; give either this or `relative`.
        relative: The same as a multiple of the standard deviation of each tensor's own entries, of those sent.

    Reference:
        Zhu, Liu and Han, Deep Leakage from Gradients, NeurIPS 2019 (noise as a defence).
    """

    name: ClassVar[str] = "gaussian"
    family: ClassVar[Family] = "perturb"
    sigma: float | None = None
    relative: float | None = None

    def __post_init__(self) -> None:
        _check("Gaussian", self.sigma, self.relative)

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Perturb; see `Obfuscation`."""
        return _perturbed(update, self.sigma, self.relative, lambda t: normal_like(t, generator))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """``(x - y)^2 / sigma^2``; see `Obfuscation`."""
        sigmas = _sigmas(received, self.sigma, self.relative)
        weights = {name: sigma**-2 if sigma > 0 else 1.0 for name, sigma in sigmas.items()}
        return squared(received, weights, sent_only=sent_only)

    def variances(self, received: Update) -> Mapping[str, Variance]:
        """The noise's, the same for every entry of a tensor; see `Varying`."""
        return {name: Variance(constant=s**2) for name, s in _sigmas(received, self.sigma, self.relative).items()}

    def told_from(self, spreads: Mapping[str, float]) -> dict[str, float]:
        """Its standard deviation by tensor, a relative one from the spread of entry and noise together; see `Noise`."""
        return _told_from(spreads, self.sigma, self.relative)

    def reach(self, received: Update) -> Mapping[str, float]:
        """Three standard deviations; see `Moving`."""
        return {name: 3 * sigma for name, sigma in _sigmas(received, self.sigma, self.relative).items()}

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class Laplace:
    """Add independent Laplace noise to every entry sent. Without clipping it has no differential-privacy guarantee.

    Wire cost: 32 bits a value, also behind a quantiser, whose levels it leaves.

    Args:
        sigma: Standard deviation of the noise (its scale parameter times the square root of 2); this or `relative`.
        relative: The same as a multiple of the standard deviation of each tensor's own entries, of those sent.

    Reference:
        Zhu, Liu and Han, Deep Leakage from Gradients, NeurIPS 2019 (noise as a defence).
    """

    name: ClassVar[str] = "laplace"
    family: ClassVar[Family] = "perturb"
    sigma: float | None = None
    relative: float | None = None

    def __post_init__(self) -> None:
        _check("Laplace", self.sigma, self.relative)

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Perturb; see `Obfuscation`."""
        return _perturbed(update, self.sigma, self.relative, lambda t: laplace_like(t, generator))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """``|x - y|`` in units of the noise's scale; see `Obfuscation`."""
        sigmas = _sigmas(received, self.sigma, self.relative)
        penalties = {n: partial(_absolute, scale=s / math.sqrt(2)) for n, s in sigmas.items() if s > 0}
        return penalised(received, penalties, sent_only=sent_only)

    def variances(self, received: Update) -> Mapping[str, Variance]:
        """The noise's, the same for every entry of a tensor; see `Varying`."""
        return {name: Variance(constant=s**2) for name, s in _sigmas(received, self.sigma, self.relative).items()}

    def told_from(self, spreads: Mapping[str, float]) -> dict[str, float]:
        """Its standard deviation by tensor, a relative one from the spread of entry and noise together; see `Noise`."""
        return _told_from(spreads, self.sigma, self.relative)

    def reach(self, received: Update) -> Mapping[str, float]:
        """Three standard deviations; see `Moving`."""
        return {name: 3 * sigma for name, sigma in _sigmas(received, self.sigma, self.relative).items()}

    __str__ = spec_of


def _perturbed(update: Update, sigma: float | None, relative: float | None, draw: Draw) -> Update:
    def perturb(rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups entries"]:
        values = wide(rows)
        return values + (sigma if sigma is not None else (relative or 0.0) * spread(values)) * draw(values)

    tensors = each_group(update.tensors, "tensor", perturb, masks=update.masks())
    return recoded(update, tensors, bits_per_value=None)


def _told_from(spreads: Mapping[str, float], sigma: float | None, relative: float | None) -> dict[str, float]:
    """The noise of each tensor; a relative one from the spread with the noise, s^2 = own^2 (1 + relative^2)."""
    share = (relative or 0.0) / math.hypot(1, relative or 0.0)
    return {name: sigma if sigma is not None else share * own for name, own in spreads.items()}


def _sigmas(received: Update, sigma: float | None, relative: float | None) -> dict[str, float]:
    if sigma is not None:
        return dict.fromkeys(received.tensors, sigma)
    values = {name: packed(y, received.sent(name)) for name, y in received.tensors.items()}
    # The spread of a few values may be next to nothing by chance; their size about zero is not.
    spreads = {name: float(spread(row)) if len(row) >= MANY else rms(row) for name, row in values.items()}
    return _told_from(spreads, sigma, relative)


def _absolute(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    return (x - y).abs() / scale


def _check(who: str, sigma: float | None, relative: float | None) -> None:
    if (sigma is None) == (relative is None):
        raise UsageError(f"{who}: expected either sigma or relative; give exactly one, such as relative=1")
    hint = "use the obfuscation `none` for no noise"
    positive(who, "noise", sigma if sigma is not None else relative or 0.0, hint)
