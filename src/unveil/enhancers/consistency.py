"""Between an attack and its scores: an enhancer, held to what the update says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.core.bounds import not_negative, share, whole
from unveil.core.errors import UsageError
from unveil.core.fingerprints import fingerprints, overlap
from unveil.core.objectives import OBJECTIVES
from unveil.core.pixels import GREY
from unveil.core.protocols import Enhancer, Knowledge, TrainedOnPictures
from unveil.core.records import Enhancement
from unveil.core.tuning import changes_of
from unveil.core.types import Batch, Images, Reconstruction, Update

TINY = 1e-30
HINT = "leave it out for the default"


@dataclass(frozen=True, kw_only=True)
class ConsistencyTuning:
    """How a restorer's change is held to the update.

    Chosen by hand, on the published batch, while the restorers were trained; alternatives were compared, but no record
    of them was kept. `python -m benchmarks run tuning` halves and doubles each field on other pictures.

    Args:
        shares: Shares of the change that are tried, one after the other, until the misfit is not raised; in (0, 1].
        feature_steps: Most steps by which each picture is led back to the features that the update gives it.
        update_steps: Most steps of a last correction towards the whole update.
        nearly: These steps are taken where the misfit is at most this many times the attack's own; at least 1.
        exact_noise: The features count as exact where their mean error is below this share of their standard deviation.
        exact_share: Largest share that is tried where the features are exact, in (0, 1]: the update then knows better
            than a prior.
        margin: Each step aims at this times the goal, in (0, 1]; 1 would near it for ever.

    Raises:
        UsageError: A value outside its range.
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
        tuning: How a restorer's change is held to the update.
    """
    found = enhancer(guess, class_names=class_names)
    distance = OBJECTIVES["misfit" if knowledge.scale else "cosine"](update, knowledge)

    def misfit(images: Images) -> Tensor:
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
        tuning: Which shares are tried, and how far pictures are led back.
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
    """Pictures nearby that are less far from something: as near as `goal`, by a few steps downhill.

    Each step is the smallest change of the pictures that would bring the distance to the goal if it were linear. What
    the distance leaves open so stays as it was restored.

    Args:
        images: The pictures.
        distance: One value a picture, or one for all of them.
        goal: The same number of values.
        steps: Steps at most.
        margin: Each step aims at this times the goal.

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
