"""The laws of attacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from unveil.attacks import parse
from unveil.clients.training import FedSGD
from unveil.core.protocols import Knowledge
from unveil.core.reconstruction import Reconstruction
from unveil.core.update import Update
from unveil.obfuscations.none import Identity
from unveil.testing.sample import (
    CLASSES,
    client,
    copied,
    generator,
    is_same,
    no_global_randomness,
    require,
    require_kind,
    require_round_trip,
)


def check_attack(attack: Any, *, seed: int = 0, size: int = 16) -> None:
    """Check an attack: it returns valid pictures and labels with any knowledge, repeatably, and changes no input.

    Args:
        attack: An attack with few steps; it is run four times on 2 pictures.
        seed: Seed of the client on which it is tried, and of its own draws.
        size: Height and width of the pictures, pixels.

    Raises:
        AssertionError: The attack breaks a law; the message names the first.
    """
    who = require_kind("attack", attack)
    require_round_trip(who, attack, parse)
    model, batch = client(seed, pictures=2, size=size)
    sent = Update(FedSGD()(model, batch))
    knowledge = Knowledge(
        training=FedSGD(),
        image_shape=(3, size, size),
        num_images=2,
        classes=CLASSES,
        labels=batch.labels,
        obfuscation=Identity(),
    )
    weights, tensors = copied(model.state_dict()), copied(sent.tensors)

    def run(known: Knowledge) -> Reconstruction:
        guess: Reconstruction = attack(model, sent, known, generator=generator(seed))
        _check_guess(who, guess, size)
        return guess

    with no_global_randomness(who):
        first, second = run(knowledge), run(knowledge)
        run(replace(knowledge, labels=None))
        run(replace(knowledge, obfuscation=None))
    require(torch.equal(first.images, second.images), f"{who} is another for the same seed; draw from the generator")
    require(is_same(model.state_dict(), weights), f"{who} changed the model; work on a copy")
    require(is_same(sent.tensors, tensors), f"{who} changed the update; work on a copy")


def _check_guess(who: str, guess: Reconstruction, size: int) -> None:
    """Raise an `AssertionError` unless the reconstruction has 2 finite pictures in [0, 1], and 2 labels."""
    images = guess.images
    require(
        images.shape == (2, 3, size, size),
        f"{who} gives pictures of {tuple(images.shape)}, not (2, 3, {size}, {size}), as the knowledge says",
    )
    require(bool(torch.isfinite(images).all()), f"{who} gives pictures with NaN or infinite values")
    require(0 <= float(images.min()) <= float(images.max()) <= 1, f"{who} gives pictures outside 0 to 1; clamp them")
    require(not images.requires_grad, f"{who} gives pictures with a graph behind them; detach them")
    require(guess.labels.shape == (2,), f"{who} gives labels of {tuple(guess.labels.shape)}, not one a picture")
