"""Between an attack and its scores: an enhancer, held to what the update says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Module

from unveil.attacks.objectives import OBJECTIVES
from unveil.core import Batch, Enhanced, Enhancer, Images, Knowledge, Reconstruction, Update
from unveil.enhancers.learned import Learned
from unveil.errors import UsageError
from unveil.fingerprints import fingerprints, overlap

STEPS, PACE = 10, 0.003
"""Steps, and how far each moves a pixel, by which restored pictures are led back to what the update says."""

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Where that is not enough: how much of the change is tried, until the misfit is not raised; else none is kept."""

GREY = 0.5


def enhance(
    enhancer: Enhancer,
    guess: Reconstruction,
    *,
    model: Module,
    update: Update,
    knowledge: Knowledge,
    class_names: Sequence[str] = (),
) -> tuple[Reconstruction, Enhanced]:
    """The enhanced reconstruction and what was done to it, without scores.

    A restorer is believed as far as its pictures explain the update no worse than the attack's own did: they are led
    back to it, and what still goes beyond is given back, for all pictures by the same share. What a generator draws is
    kept, and its misfit told.

    Args:
        enhancer: The enhancer.
        guess: What the attack rebuilt.
        model: The public model.
        update: What was received.
        knowledge: What the attacker was granted.
        class_names: Names of the classes.
    """
    found = enhancer(guess, class_names=class_names)
    distance = OBJECTIVES["misfit" if knowledge.scale else "cosine"](update, knowledge)

    def misfit(images: Images) -> Tensor:
        return distance(knowledge.training.simulate(model, Batch(images, guess.labels)))

    before = float(misfit(guess.images).detach())
    kept, after = found.images, float(misfit(found.images).detach())
    if enhancer.is_faithful and after > before:
        kept, after = led_back(kept, misfit, before)
    for share in SHARES:
        images = kept + (1 - share) * (guess.images - kept)
        after = float(misfit(images).detach())
        if after <= before or not enhancer.is_faithful:
            break
    else:
        images, after, share = guess.images, before, 0.0
    told = Enhanced(scores={}, misfit_before=before, misfit_after=after, share=share)
    return dataclasses.replace(found, images=images), told


def led_back(images: Images, misfit: Callable[[Images], Tensor], least: float) -> tuple[Images, float]:
    """Pictures nearby that explain the update better: a few steps downhill, as far as `least` at most.

    Stopped as soon as that is reached: what the update leaves open stays as it was restored, and the channel's noise,
    which comes in with many steps, stays out.
    """
    z = images.detach().clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=PACE)
    for _ in range(STEPS):
        loss = misfit(z.clamp(0, 1))
        if float(loss.detach()) <= least:
            break
        (z.grad,) = torch.autograd.grad(loss, z)
        adam.step()
    found = z.detach().clamp(0, 1)
    return found, float(misfit(found).detach())


def from_labels(enhancer: Enhancer, like: Reconstruction, *, class_names: Sequence[str] = ()) -> Images:
    """What the enhancer draws for the reconstruction's labels from grey pictures: without anything of the update."""
    blank = dataclasses.replace(like, images=torch.full_like(like.images, GREY), evidence=None)
    return enhancer(blank, class_names=class_names).images


def refuse_seen(enhancer: Enhancer, images: Images) -> None:
    """Raise a `UsageError` where a picture is one that the enhancer was trained on: it would know it by heart."""
    if not isinstance(enhancer, Learned):
        return
    known = overlap(fingerprints(images), enhancer.seen)
    if len(known):
        raise UsageError(
            f"enhancer {enhancer}: {len(known)} of the {len(images)} pictures are among those it was trained on (the "
            f"first: picture {int(known[0]) + 1}), so its scores would mean nothing; use other pictures, another "
            "enhancer or none"
        )
