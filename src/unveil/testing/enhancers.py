"""The laws of enhancers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from unveil.core.reconstruction import Reconstruction
from unveil.enhancers import parse
from unveil.testing.sample import client, no_global_randomness, require, require_kind, require_round_trip


def check_enhancer(enhancer: Any, *, class_names: Sequence[str] = (), size: int = 32, seed: int = 0) -> None:
    """Check an enhancer: it returns valid pictures of the same shape, repeatably, and changes neither input nor labels.

    Args:
        enhancer: The enhancer.
        class_names: Names of at least 10 classes, for an enhancer that needs them.
        size: Height and width of the pictures, pixels.
        seed: Seed of the pictures.

    Raises:
        AssertionError: The enhancer breaks a law; the message names the first.
    """
    who = require_kind("enhancer", enhancer)
    require_round_trip(who, enhancer, parse)
    require(
        all(text.endswith(".") for text in enhancer.assumptions),
        f"{who}: every one of its assumptions is a sentence with a full stop",
    )
    _, batch = client(seed, pictures=2, size=size)
    guess = Reconstruction(images=batch.images.clone(), labels=batch.labels, losses=[1.0])
    with no_global_randomness(who):
        first = enhancer(guess, class_names=class_names)
        second = enhancer(guess, class_names=class_names)
    images = first.images
    require(torch.equal(guess.images, batch.images), f"{who} changed its input; return new pictures")
    require(torch.equal(images, second.images), f"{who} gives other pictures the second time; seed what it draws")
    require(
        images.shape == batch.images.shape, f"{who} makes pictures {tuple(images.shape)} of {tuple(guess.images.shape)}"
    )
    require(0 <= float(images.min()) <= float(images.max()) <= 1, f"{who} gives pictures outside 0 to 1; clamp them")
    require(torch.equal(first.labels, guess.labels), f"{who} changed the labels; keep them")
