"""The laws of metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unveil.testing.sample import client, no_global_randomness, require, require_kind


def check_metric(metric: Any, *, size: int = 32, seed: int = 0) -> None:
    """Check a metric: it returns one number for each picture, in their order, and a copy leaks more than noise.

    Args:
        metric: The metric.
        size: Height and width of the pictures, pixels.
        seed: Seed of the pictures.

    Raises:
        AssertionError: The metric breaks a law; the message names the first.
    """
    who = require_kind("metric", metric)
    require(metric.leak in ("high", "low"), f"{who}: `leak` is {metric.leak!r}, not 'high' or 'low'")
    originals = client(seed, size=size)[1].images
    noise = client(seed + 1, size=size)[1].images
    near = 0.9 * originals + 0.1 * noise
    before = originals.clone(), near.clone()
    with no_global_randomness(who):
        scores = metric.score(originals, near)
        again = metric.score(originals, near)
    require(
        isinstance(scores, Tensor) and scores.shape == (len(originals),),
        f"{who} gives no tensor of one number a picture",
    )
    require(torch.equal(originals, before[0]) and torch.equal(near, before[1]), f"{who} changed its input")
    require(torch.equal(scores.nan_to_num(), again.nan_to_num()), f"{who} gives other scores the second time")
    turned = metric.score(originals.flip(0), near.flip(0)).flip(0)
    require(
        torch.allclose(turned, scores, rtol=1e-4, atol=1e-5, equal_nan=True),
        f"{who}: a picture's score depends on the others of its batch, or is not in their order",
    )
    alone = torch.cat([metric.score(originals[i : i + 1], near[i : i + 1]) for i in range(len(near))])
    require(
        torch.allclose(alone, scores, rtol=1e-4, atol=1e-5, equal_nan=True),
        f"{who}: a picture's score depends on the others of its batch; never pool over it",
    )
    copy, far = metric.score(originals, originals).nanmean(), metric.score(originals, noise).nanmean()
    leaks = copy > far if metric.leak == "high" else copy < far
    require(
        bool(leaks),
        f"{who}: a copy scores {float(copy):g} and noise {float(far):g}, and {metric.leak} means leakage; turn `leak`",
    )
