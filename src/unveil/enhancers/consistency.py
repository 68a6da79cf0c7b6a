"""Between an attack and its scores: an enhancer, held to what the update says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Module

from unveil.core.errors import UsageError
from unveil.core.fingerprints import fingerprints, overlap
from unveil.core.objectives import OBJECTIVES
from unveil.core.pixels import GREY
from unveil.core.protocols import Enhancer, Knowledge, TrainedOnPictures
from unveil.core.records import Enhancement
from unveil.core.types import Batch, Images, Reconstruction, Update

SHARES = (1.0, 0.6, 0.3)
"""How much of the change is tried, until the misfit is not raised; else none is kept."""

STEPS = 6
"""Steps by which each of them is led back to the features that the update gives."""

LAST, NEARLY = 3, 1.02
"""Steps of a last correction towards the whole update, taken only if the misfit is at most 1.02 times the attack's."""

EXACT, MOST = 0.005, 0.3
"""Where the update gives the features this exactly, it knows better than a prior: so much is tried at most."""

MARGIN = 0.999  # a goal is aimed at from just beyond, or it would be neared for ever
TINY = 1e-30


def enhance(
    enhancer: Enhancer,
    guess: Reconstruction,
    *,
    model: Module,
    update: Update,
    knowledge: Knowledge,
    class_names: Sequence[str] = (),
) -> tuple[Reconstruction, Enhancement]:
    """The enhanced reconstruction and what was done to it, without the trial before it.

    A restorer is believed as far as its pictures explain the update no worse than the attack's own did; see
    `project_to_consistency`. What a generator draws is kept, and its misfit reported.

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
        return distance(knowledge.simulate(model, Batch(images, guess.labels)))

    before = float(misfit(guess.images).detach())
    if enhancer.is_faithful:
        images, after, share = project_to_consistency(guess, found.images - guess.images, misfit, before)
    else:
        images, after, share = found.images, float(misfit(found.images).detach()), 1.0
    report = Enhancement(misfit_before=before, misfit_after=after, share=share)
    return dataclasses.replace(found, images=images), report


def project_to_consistency(
    guess: Reconstruction, change: Tensor, misfit: Callable[[Images], Tensor], least: float
) -> tuple[Images, float, float]:
    """As much of a restorer's change as does not raise the misfit, with the misfit and the share that was kept.

    All of the change is tried, then less of it, the same share for all pictures. Each is tried as it is; then with each
    picture's features led back to where the attack had them or to within what obfuscation does to them, whichever is
    farther; then to whichever is nearer. What is nearly right is led on by the update as a whole. The update's own
    misfit decides, because every picture has its part in it; the features lead, because they are each picture's own,
    cost little, and lie on gentler slopes.

    Args:
        guess: What the attack rebuilt.
        change: What the restorer would add to its pictures.
        misfit: How badly pictures explain the update.
        least: The misfit of the attack's pictures.
    """
    chi_squared = None if guess.evidence is None else guess.evidence.chi_squared
    exact = guess.evidence is not None and float(guess.evidence.noise.mean()) < EXACT
    goals: list[Tensor | None] = [None]
    if chi_squared is not None:
        with torch.no_grad():
            own = chi_squared(guess.images)
        goals = [None, own.clamp_min(1), own.clamp_max(1)]
    for share in SHARES:
        if exact and share > MOST:
            continue
        for goal in goals:
            images = guess.images + share * change
            if chi_squared is not None and goal is not None:
                images = polyak_steps(images, chi_squared, goal, steps=STEPS)
            value = float(misfit(images).detach())
            if least < value <= NEARLY * least:
                images = polyak_steps(images, lambda z: misfit(z)[None], torch.full((1,), least), steps=LAST)
                value = float(misfit(images).detach())
            if value <= least:
                return images, value, share
    return guess.images, least, 0.0


def polyak_steps(images: Images, distance: Callable[[Images], Tensor], goal: Tensor, *, steps: int) -> Images:
    """Pictures nearby that are less far from something: as near as `goal`, by a few steps downhill.

    Each step is the smallest change of the pictures that would bring the distance to the goal if it were linear. What
    the distance leaves open so stays as it was restored.

    Args:
        images: The pictures.
        distance: One value a picture, or one for all of them.
        goal: The same number of values.
        steps: Steps at most.

    Reference:
        The step: Polyak, Minimization of Unsmooth Functionals, 1969.
    """
    goal = goal.to(images)
    z = images.detach()
    for _ in range(steps):
        z.requires_grad_()
        value = distance(z)
        excess = (value.detach() - MARGIN * goal).clamp_min(0) * (value.detach() > goal)
        if not bool(excess.any()):
            break
        (slope,) = torch.autograd.grad(value.sum(), z)
        steepness = slope.square().flatten(1).sum(1) if len(goal) == len(z) else slope.square().sum()[None]
        z = (z.detach() - (excess / steepness.clamp_min(TINY))[:, None, None, None] * slope).clamp(0, 1)
    return z.detach()


def from_labels(enhancer: Enhancer, like: Reconstruction, *, class_names: Sequence[str] = ()) -> Images:
    """What the enhancer draws for the reconstruction's labels, known or inferred, from grey pictures."""
    blank = dataclasses.replace(like, images=torch.full_like(like.images, GREY), evidence=None)
    return enhancer(blank, class_names=class_names).images


def refuse_seen(enhancer: Enhancer, images: Images) -> None:
    """Raise a `UsageError` where a picture is one that the enhancer was trained on: it would know it by heart."""
    if not isinstance(enhancer, TrainedOnPictures):
        return
    known = overlap(fingerprints(images), enhancer.seen)
    if len(known):
        raise UsageError(
            f"enhancer {enhancer}: {len(known)} of the {len(images)} pictures are among those it was trained on (the "
            f"first: picture {int(known[0]) + 1}), so its scores would mean nothing; use other pictures, another "
            "enhancer or none"
        )
