"""Noise that is rounded or chosen from afterwards: how likely it carries a candidate into the interval received."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from jaxtyping import Float
from torch import Tensor
from torch.special import log_ndtr

from unveil.core.protocols import Misfit
from unveil.core.update import Update
from unveil.obfuscations.likelihoods import penalised

Bins = Mapping[str, tuple[Float[Tensor, " ..."], Float[Tensor, " ..."]]]
"""Tensor name -> lower and upper ends of the interval of each entry."""

LEAST = 0.05  # noise taken for true, in halves of an interval: keeps the loss finite where there is none


def noise_in_bins(received: Update, sigmas: Mapping[str, float], bins: Bins, *, sent_only: bool) -> Misfit:
    """Mean of ``-log P(low <= x + noise <= high)`` for Gaussian noise that was rounded to the nearest level.

    Args:
        received: What came out of the obfuscation.
        sigmas: Tensor name -> standard deviation of the noise.
        bins: Tensor name -> low and high (`roles.Binning`); a tensor whose bins are all empty is left out.
        sent_only: Judge only the entries that were sent.
    """
    widths = {name: float((high - low).amax()) if low.numel() else 0.0 for name, (low, high) in bins.items()}
    known = {name: width for name, width in widths.items() if width > 0}
    halves = {name: (bins[name][1] - bins[name][0]) / 2 for name in known}
    middles = {name: bins[name][0] + half for name, half in halves.items()}
    judged = replace(received, tensors={**received.tensors, **middles}, support=received.masks())
    penalties = {name: partial(_rounded, sigma=max(sigmas[name], LEAST * width / 2)) for name, width in known.items()}
    return penalised(judged, penalties, halves, sent_only=sent_only)


def chosen_noise(received: Update, sigmas: Mapping[str, float], thresholds: Mapping[str, float]) -> Misfit:
    """Noise, then the largest entries: ``(x - y)^2 / 2 sigma^2`` of what was sent, ``-log P(|x + noise| <= t)`` else.

    Noise lifts entries over the threshold, so what was sent is larger than the truth; that the rest was not is as much
    evidence, and the sum of both over all entries is lowest at the truth.

    Args:
        received: What came out of the obfuscation.
        sigmas: Tensor name -> standard deviation of the noise.
        thresholds: Tensor name -> t.
    """
    noise = {name: max(sigmas[name], LEAST * t) or 1.0 for name, t in thresholds.items()}
    total = max(sum(y.numel() for y in received.tensors.values()), 1)
    share = sum(received.count_sent(name) for name in received.tensors) / total
    sent = penalised(received, {n: partial(_exact, sigma=noise[n]) for n in noise}, sent_only=True)
    rest = penalised(
        received, {n: partial(_below, threshold=t, sigma=noise[n]) for n, t in thresholds.items()}, unsent_only=True
    )
    return lambda candidate: share * sent(candidate) + rest(candidate)


def _rounded(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], half: Float[Tensor, "*shape"], *, sigma: float
) -> Float[Tensor, "*shape"]:
    return _surprise(((x - y).abs() - half) / sigma, 2 * half / sigma)


def _below(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, threshold: float, sigma: float
) -> Float[Tensor, "*shape"]:
    return _surprise((x.abs() - threshold) / sigma, 2 * threshold / sigma)


def _exact(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, sigma: float) -> Float[Tensor, "*shape"]:
    return ((x - y) / sigma).square() / 2


def _surprise(beyond: Float[Tensor, "*shape"], width: Float[Tensor, "*shape"] | float) -> Float[Tensor, "*shape"]:
    """``-log P`` that standard noise ends in an interval of this width that it starts `beyond` of, negative inside."""
    near: Float[Tensor, "*shape"] = log_ndtr(-beyond)
    far: Float[Tensor, "*shape"] = log_ndtr(-beyond - width)
    return -near - (-(far - near).clamp(max=-1e-6).exp()).log1p()
