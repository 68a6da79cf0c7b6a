"""Consistency: enhanced pictures must explain the update no worse than the attack's own pictures do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.bounds import not_negative, share, whole
from unveil.core.errors import UsageError
from unveil.core.fingerprints import fingerprints, overlap
from unveil.core.objectives import OBJECTIVES
from unveil.core.pixels import GREY
from unveil.core.protocols import Enhancer, Knowledge, TrainedOnPictures
from unveil.core.reconstruction import Reconstruction
from unveil.core.records import Enhancement
from unveil.core.tuning import changes_of
from unveil.core.types import Images
from unveil.core.update import Update

TINY = 1e-30
HINT = "leave it out for the default"


@dataclass(frozen=True, kw_only=True)
class ConsistencyTuning:
    """Constants of `project_to_consistency`, which limits a restorer's change to what the update allows.

    Chosen by hand, on the published batch, while the restorers were trained; alternatives were compared, but no record
    of them was kept. `python -m benchmarks run tuning` halves and doubles each field on other pictures.

    Args:
        shares: Shares of the change, in (0, 1], that are tried in this order until one does not raise the misfit.
        feature_steps: Most steps that move each picture back towards the features that the update gives it.
        update_steps: Most steps that then move all pictures towards the whole update.
        nearly: The steps towards the whole update are taken if the misfit is at most this many times the attack's own;
            at least 1.
        exact_noise: The features count as exact if the standard deviation of their errors, averaged over the pictures,
            is below this share of the features' own.
        exact_share: Largest share that is tried if the features are exact, in (0, 1]; exact features say more about a
            picture than a prior does.
        margin: Each step aims at this times the goal, in (0, 1]; with 1 the steps would approach the goal and never
            reach it.

    Raises:
        UsageError: A value is out of its range.
    """

    shares: tuple[float, ...] = (1.0, 0.6, 0.3)
    feature_steps: int = 6
    update_steps: int = 3
    nearly: float = 1.02
    exact_noise: float = 0.005
    exact_share: float = 0.3
    margin: float = 0.999

    def __post_init__(self) -> None:
        who = "ConsistencyTuning"
        for value in self.shares:
            share(who, "shares", value, HINT)
        whole(who, "feature_steps", self.feature_steps, 0, 10_000, HINT)
        whole(who, "update_steps", self.update_steps, 0, 10_000, HINT)
        if not self.nearly >= 1:
            raise UsageError(f"{who}: expected nearly >= 1, got {self.nearly:g}; {HINT}")
        not_negative(who, "exact_noise", self.exact_noise, HINT)
        share(who, "exact_share", self.exact_share, HINT)
        share(who, "margin", self.margin, HINT)

    __str__ = changes_of


DEFAULT = ConsistencyTuning()


def enhance(
    enhancer: Enhancer,
    guess: Reconstruction,
    *,
    model: Module,
    update: Update,
    knowledge: Knowledge,
    class_names: Sequence[str] = (),
    tuning: ConsistencyTuning = DEFAULT,
) -> tuple[Reconstruction, Enhancement]:
    """Enhance a reconstruction.

    A restorer's change is kept only as far as it does not raise the misfit; see `project_to_consistency`. A generator's
    pictures are kept as they are, and their misfit is reported.

    Args:
        enhancer: The enhancer.
        guess: The attack's reconstruction.
        model: The public model.
        update: The received update.
        knowledge: What the attacker knows.
        class_names: Names of the classes.
        tuning: Constants of `project_to_consistency`.

    Returns:
        The reconstruction with the enhanced pictures, and a record of the misfit before and after.
    """
    found = enhancer(guess, class_names=class_names)
    distance = OBJECTIVES["misfit" if knowledge.scale else "cosine"](update, knowledge)

    def misfit(images: Images) -> Float[Tensor, ""]:
        return distance(knowledge.simulate(model, Batch(images, guess.labels)))

    before = float(misfit(guess.images).detach())
    if enhancer.is_faithful:
        change = found.images - guess.images
        images, after, kept = project_to_consistency(guess, change, misfit, before, tuning=tuning)
    else:
        images, after, kept = found.images, float(misfit(found.images).detach()), 1.0
    report = Enhancement(misfit_before=before, misfit_after=after, share=kept)
    return dataclasses.replace(found, images=images), report


def project_to_consistency(
    guess: Reconstruction,
    change: Float[Tensor, "n channels height width"],
    misfit: Callable[[Images], Float[Tensor, ""]],
    least: float,
    *,
    tuning: ConsistencyTuning = DEFAULT,
) -> tuple[Images, float, float]:
    """Keep as much of a restorer's change as does not raise the misfit of the whole update.

    The shares of `tuning` are tried in their order; all pictures get the same share. Each share is tried in up to three
    ways: as it is; then with each picture moved back until the distance of its features is the attack's own or 1 (what
    the obfuscation causes), whichever is larger; then until it is whichever is smaller. Steps towards the whole update
    follow if the misfit is only slightly too high. The first result whose misfit is not raised is returned.

    The misfit decides because all pictures contribute to the update. The features guide the steps because each picture
    has its own, they are cheap to compute, and their slopes are gentler.

    Args:
        guess: The attack's reconstruction.
        change: What the restorer would add to its pictures.
        misfit: How badly pictures explain the update.
        least: The misfit of the attack's pictures.
        tuning: Which shares are tried, and the most steps.

    Returns:
        The pictures, their misfit, and the share of the change that was kept; 0 if no share passed.
    """
    chi_squared = None if guess.evidence is None else guess.evidence.chi_squared
    exact = guess.evidence is not None and float(guess.evidence.noise.mean()) < tuning.exact_noise
    goals: list[Float[Tensor, " n"] | None] = [None]
    if chi_squared is not None:
        with torch.no_grad():
            own = chi_squared(guess.images)
        goals = [None, own.clamp_min(1), own.clamp_max(1)]
    for part in tuning.shares:
        if exact and part > tuning.exact_share:
            continue
        for goal in goals:
            images = guess.images + part * change
            if chi_squared is not None and goal is not None:
                images = polyak_steps(images, chi_squared, goal, steps=tuning.feature_steps, margin=tuning.margin)
            value = float(misfit(images).detach())
            if least < value <= tuning.nearly * least:
                goal_of_all = torch.full((1,), least)
                images = polyak_steps(
                    images, lambda z: misfit(z)[None], goal_of_all, steps=tuning.update_steps, margin=tuning.margin
                )
                value = float(misfit(images).detach())
            if value <= least:
                return images, value, part
    return guess.images, least, 0.0


def polyak_steps(
    images: Images,
    distance: Callable[[Images], Float[Tensor, " values"]],
    goal: Float[Tensor, " values"],
    *,
    steps: int,
    margin: float = DEFAULT.margin,
) -> Images:
    """Change pictures by a few steps down the slope of a distance, until the distance is at most `goal`.

    Each step is the smallest change of the pictures that would bring the distance to the goal if the distance were
    linear. So the steps leave alone what the distance does not depend on.

    Args:
        images: The pictures.
        distance: (images) -> one value for each picture, or one for all of them.
        goal: The same number of values.
        steps: Most steps.
        margin: Each step aims at this times the goal.

    Returns:
        The changed pictures, detached; in [0, 1] if a step was taken.

    Reference:
        The step: Polyak, Minimization of Unsmooth Functionals, 1969.
    """
    goal = goal.to(images)
    z = images.detach()
    for _ in range(steps):
        z.requires_grad_()
        value = distance(z)
        excess = (value.detach() - margin * goal).clamp_min(0) * (value.detach() > goal)
        if not bool(excess.any()):
            break
        (slope,) = torch.autograd.grad(value.sum(), z)
        steepness = slope.square().flatten(1).sum(1) if len(goal) == len(z) else slope.square().sum()[None]
        z = (z.detach() - (excess / steepness.clamp_min(TINY))[:, None, None, None] * slope).clamp(0, 1)
    return z.detach()


def from_labels(enhancer: Enhancer, like: Reconstruction, *, class_names: Sequence[str] = ()) -> Images:
    """Return the pictures that the enhancer draws from the labels alone: it gets grey pictures and no evidence.

    Args:
        enhancer: The enhancer.
        like: The reconstruction whose labels, known or inferred, are used.
        class_names: Names of the classes.
    """
    blank = dataclasses.replace(like, images=torch.full_like(like.images, GREY), evidence=None)
    return enhancer(blank, class_names=class_names).images


def refuse_seen(enhancer: Enhancer, images: Images) -> None:
    """Raise a `UsageError` if the enhancer was trained on one of the pictures, which it could then have memorised."""
    if not isinstance(enhancer, TrainedOnPictures):
        return
    known = overlap(fingerprints(images), enhancer.seen)
    if len(known):
        raise UsageError(
            f"enhancer {enhancer}: {len(known)} of the {len(images)} pictures are among those it was trained on (the "
            f"first: picture {int(known[0]) + 1}), so its scores would mean nothing; use other pictures, another "
            "enhancer or none"
        )
