"""The stages for networks that pool their last map: peel to a deep map, decode it, and search pictures that have it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.matching.regularisers import ColourVariation
from unveil.attacks.separation.decoder import fit_decoder
from unveil.attacks.separation.factorisation import first_guess
from unveil.attacks.separation.gain.likelihood import is_known
from unveil.attacks.separation.heads.head import Head, PooledError, read_head
from unveil.attacks.separation.peeling.map_body import MapBody
from unveil.attacks.separation.peeling.peel import CannotPeelError, PeeledMap, Peeling
from unveil.attacks.separation.stages import MatchFeatures, feature_sensitivity_of, restore
from unveil.attacks.separation.state import MapTarget, Problem, State, descend
from unveil.attacks.separation.tuning import FactorisationTuning, SearchTuning
from unveil.core.errors import UsageError
from unveil.core.network import in_mode, run
from unveil.core.reconstruction import FeatureFit
from unveil.core.types import Images
from unveil.enhancers.learned import Learned

TURNS = 200  # alternations of pooled features and errors, without obfuscation: they converge to rounding


@dataclass(frozen=True, kw_only=True)
class PeelBatch:
    """Separate the pooled features, peel the network to its deepest map, and decode that to the first pictures.

    Args:
        factorisation: The constants of the factorisation.
        search: The constants of the search.
        steps: Steps of the attack that the stage counts as.
    """

    factorisation: FactorisationTuning
    search: SearchTuning
    steps: int = 1

    def __call__(self, problem: Problem, state: State) -> State:
        """Return the state with the map and the decoded pictures; see `Stage`.

        Raises:
            CannotPeelError: No map was found that explains the update.
        """
        knowledge, labels, generator = problem.knowledge, problem.labels, problem.generator
        if knowledge.training.mode == "train":
            raise CannotPeelError("The client runs the network in train mode, where its images depend on each other.")
        if knowledge.obfuscation is None or knowledge.obfuscation.family != "none" or not is_known(knowledge):
            raise CannotPeelError("Gates are searched in updates that were not obfuscated.")
        if len(torch.unique(labels)) < len(labels):
            raise CannotPeelError("Images of one class have the same errors behind a pooled map.")
        doubled = _in_float64(problem)
        head = _pooled_head(doubled, problem)
        received = {name: tensor.double() for name, tensor in problem.update.tensors.items()}
        exact = replace(self.factorisation, first_ridge=1e-14, first_rounds=TURNS)
        gradients = [received[name] for name in head.weights]
        features, _ = first_guess(head, gradients, labels, gain=1.0, tuning=exact, generator=generator)
        peeling = Peeling(
            model=doubled,
            gradients={name: tensor for name, tensor in received.items() if bool(tensor.any())},
            labels=labels,
            images=torch.rand((2, *knowledge.image_shape), generator=generator).to(labels.device).double(),
            generator=generator,
        )
        found = peeling.deepest(head.allowed(features), head)
        body = MapBody(
            model=in_mode(problem.model, "eval"),
            convolution=found.before,
            image_shape=knowledge.image_shape,
            feature_map=(found.values.shape[1], found.values.shape[2], found.values.shape[3]),
        )
        decoder = fit_decoder(body, generator=generator)
        values = found.values.flatten(1).float()
        sensitivity = feature_sensitivity_of(body, decoder(values, 0.0), tuning=self.search, generator=generator)
        state = replace(
            state,
            pictures=decoder(values, 0.0),
            target=MapTarget(body=body, features=values),
            notes=(*state.notes, _sentence(found)),
            feature_sensitivity=sensitivity,
            losses=(*state.losses, found.off),
        )
        problem.report(len(state.losses) - 1)(1, found.off, lambda: state.pictures)
        return state


@dataclass(frozen=True, kw_only=True)
class MatchMaps:
    """Search smooth pictures that have the map which was found.

    Args:
        steps: Steps of Adam, at least 0.
        lr: Learning rate of the first step, in pixel values a step; a cosine lowers it.
        floor: Standard deviation of the map's errors that is assumed, relative to that of its values.
        smoothness: Weight of the regulariser, in nats for a slope of one pixel value a pixel.
        tuning: The constants of the search.
        restorer: Restores the pictures before the search; see `MatchFeatures`.
        trust: Weight of `NearRestored`, at least 0.
    """

    steps: int
    lr: float
    floor: float
    smoothness: float
    tuning: SearchTuning
    restorer: Learned | None = None
    trust: float = 0.0

    @classmethod
    def like(cls, match: MatchFeatures) -> MatchMaps:
        """Return the stage with the settings of one that matches separated features."""
        return cls(**{item.name: getattr(match, item.name) for item in fields(cls)})

    def __call__(self, problem: Problem, state: State) -> State:
        """Search the pictures; see `Stage`."""
        target = state.target
        if target is None:
            return state
        body, wanted = target.body, target.features
        near = None
        if self.restorer is not None:
            near = restore(self.restorer, state, trust=self.trust)
            state = replace(state, pictures=near.pictures)
        spread = wanted.var()
        precision = 1 / (self.floor**2 * spread)
        regulariser = near or ColourVariation(
            weight=self.smoothness * state.feature_sensitivity,
            chroma=self.tuning.colour_weight,
            softness=self.tuning.edge_softness,
        )

        def loss(images: Images) -> Float[Tensor, ""]:
            off = body.features(images, rough=True) - wanted
            return 0.5 * precision * off.square().sum() + regulariser(images)

        state = descend(problem, state, loss, steps=self.steps, lr=self.lr, tuning=self.tuning)
        with torch.no_grad():
            missed = (body.features(state.pictures) - wanted).square().mean(1)
        least = self.tuning.least_error**2 * spread

        def chi_squared(images: Images) -> Float[Tensor, " n"]:
            return ((body.features(images) - wanted).square() / least).mean(1)

        evidence = FeatureFit(noise=torch.zeros_like(missed), miss=(missed / spread).sqrt(), chi_squared=chi_squared)
        return replace(state, evidence=evidence)


def _in_float64(problem: Problem) -> Module:
    """Return a copy of the network in float64, in eval mode; the user's network does not change."""
    try:
        doubled = in_mode(copy.deepcopy(problem.model).double(), "eval")
        blank = torch.zeros((1, *problem.knowledge.image_shape), device=problem.labels.device)
        with torch.no_grad():
            run(doubled, blank, {}, draws=None)
    except (UsageError, RuntimeError, TypeError):
        raise CannotPeelError("The network does not run in float64.") from None
    return doubled


def _pooled_head(doubled: Module, problem: Problem) -> Head:
    """Return the head on pooled features, in float64."""
    knowledge = problem.knowledge
    try:
        read_head(
            doubled,
            knowledge.image_shape,
            training=knowledge.training,
            draws=knowledge.draws,
            sent=problem.update.tensors,
        )
    except PooledError as pooled:
        if pooled.head.stochastic:
            raise CannotPeelError("The network draws random numbers, so its maps differ from run to run.") from None
        return pooled.head
    raise CannotPeelError("The network does not pool its last map.")


def _sentence(found: PeeledMap) -> str:
    channels, height, width = found.values.shape[1:]
    return (
        "The batch was separated at every place of the network's pooled map, and the network was peeled down to the "
        f"input of {found.before}, a map of {channels} x {height} x {width}, which explains the gradients behind it "
        f"to {found.off:.0e}. It ended there because {found.reason}."
    )
