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

SHARES = (1.0, 0.75, 0.5, 0.25)
"""How much of the change is tried, until the misfit is not raised; else none is kept."""

STEPS = 3
"""Steps by which each of them is led back to what the update says, where it went beyond."""

EXACT, MOST = 0.005, 0.5
"""Where the update gives the features this exactly, it knows better than a prior: so much is tried at most."""

GREY = 0.5
TINY = 1e-30


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

    A restorer is believed as far as its pictures explain the update no worse than the attack's own did: all of its
    change is tried, then less of it, the same share for all pictures, each led back to the update by a few steps. What
    a generator draws is kept, and its misfit told.

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
    if enhancer.is_faithful:
        images, after, share = guess.images, before, 0.0
        for tried in SHARES:
            if tried > MOST and _is_exact(guess):
                continue
            mixed, value = led_back(guess.images + tried * (found.images - guess.images), misfit, before)
            if value <= before:
                images, after, share = mixed, value, tried
                break
    else:
        images, after, share = found.images, float(misfit(found.images).detach()), 1.0
    told = Enhanced(scores={}, misfit_before=before, misfit_after=after, share=share)
    return dataclasses.replace(found, images=images), told


def led_back(images: Images, misfit: Callable[[Images], Tensor], least: float) -> tuple[Images, float]:
    """Pictures nearby that explain the update better, and their misfit: as far as `least`, by a few steps downhill.

    Each step is the smallest change of the pictures that would bring the misfit to `least` if it were linear; one that
    does not lower it ends the descent. What the update leaves open so stays as it was restored.

    Reference:
        The step: Polyak, Minimization of Unsmooth Functionals, 1969.
    """
    z = images.detach().clone().requires_grad_()
    loss = misfit(z)
    for _ in range(STEPS):
        if float(loss.detach()) <= least:
            break
        (slope,) = torch.autograd.grad(loss, z)
        excess = float(loss.detach()) - least
        moved = (z.detach() - excess / slope.square().sum().clamp_min(TINY) * slope).clamp(0, 1).requires_grad_()
        reached = misfit(moved)
        if not float(reached.detach()) < float(loss.detach()):
            break
        z, loss = moved, reached
    return z.detach(), float(loss.detach())


def _is_exact(guess: Reconstruction) -> bool:
    return guess.evidence is not None and float(guess.evidence.noise.mean()) < EXACT


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
