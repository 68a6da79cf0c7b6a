"""Noise that is rounded or chosen from afterwards: how likely it carries a candidate into the interval received."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor
from torch.special import log_ndtr

from unveil.core.protocols import Misfit
from unveil.core.update import Update
from unveil.obfuscations.likelihoods import penalised

LEAST = 0.05  # noise taken for true, in halves of an interval: keeps the loss finite where there is none


def rounded_noise(
    received: Update, sigmas: Mapping[str, float], halves: Mapping[str, float], *, sent_only: bool
) -> Misfit:
    """Mean of ``-log P(y - h <= x + noise <= y + h)`` for Gaussian noise.

    Args:
        received: What came out of the obfuscation.
        sigmas: Tensor name -> standard deviation of the noise.
        halves: Tensor name -> h, half the distance of the levels; a tensor with 0 is left out.
        sent_only: Judge only the entries that were sent.
    """
    penalties = {
        name: partial(_rounded, half=half, sigma=max(sigmas[name], LEAST * half))
        for name, half in halves.items()
        if half > 0
    }
    return penalised(received, penalties, sent_only=sent_only)


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


def _rounded(x: Tensor, y: Tensor, *, half: float, sigma: float) -> Tensor:
    return _surprise(((x - y).abs() - half) / sigma, 2 * half / sigma)


def _below(x: Tensor, y: Tensor, *, threshold: float, sigma: float) -> Tensor:
    return _surprise((x.abs() - threshold) / sigma, 2 * threshold / sigma)


def _exact(x: Tensor, y: Tensor, *, sigma: float) -> Tensor:
    return ((x - y) / sigma).square() / 2


def _surprise(beyond: Tensor, width: float) -> Tensor:
    """``-log P`` that standard noise ends in an interval of this width that it starts `beyond` of, negative inside."""
    near: Tensor = log_ndtr(-beyond)
    far: Tensor = log_ndtr(-beyond - width)
    return -near - (-(far - near).clamp(max=-1e-6).exp()).log1p()
