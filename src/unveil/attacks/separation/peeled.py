"""The first stage for networks that pool their last map: it peels them to a deep map, and decodes that.

A network in train mode is peeled with the batch's statistics that the client sent; see `frozen/`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.body import Body
from unveil.attacks.separation.certificate import certificate
from unveil.attacks.separation.decoder import fit_decoder
from unveil.attacks.separation.factorisation import FeatureEstimate
from unveil.attacks.separation.frozen.couplings import couplings_of
from unveil.attacks.separation.frozen.freezing import frozen
from unveil.attacks.separation.frozen.statistics import frozen_statistics
from unveil.attacks.separation.gain.likelihood import is_known
from unveil.attacks.separation.heads.head import Head, PooledError, read_head
from unveil.attacks.separation.mixing_matrix import exact_features
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.map_body import MapBody
from unveil.attacks.separation.peeling.noise import distance_of
from unveil.attacks.separation.peeling.peel import PeeledMap, Peeling
from unveil.attacks.separation.peeling.watch import convolutions_of
from unveil.attacks.separation.stages import feature_sensitivity_of
from unveil.attacks.separation.state import Problem, State
from unveil.attacks.separation.tuning import FactorisationTuning, SearchTuning
from unveil.core.errors import UsageError
from unveil.core.network import in_mode, run
from unveil.core.types import Images

LONGER = 5  # factor of the steps of a search: exact maps give away more the longer it takes


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
        if not is_known(knowledge):
            raise CannotPeelError("Gates are searched only where the length of the update is known.")
        distance = distance_of(problem)
        received = {name: tensor.double() / distance.gain for name, tensor in problem.update.tensors.items()}
        statistics = frozen_statistics(problem.model, problem.update, knowledge)
        if statistics and distance.noise:
            raise CannotPeelError("In train mode gates are searched in gradients that were not obfuscated.")
        single = frozen(problem.model, statistics)
        doubled = _in_float64(single, problem)
        head = _pooled_head(doubled, problem)
        gradients = [received[name] for name in head.weights]
        _require_rank(gradients, len(labels))
        kind = problem.update.tensors[head.weights[0]].dtype
        proof = certificate(gradients[0], head.weights[0], len(labels))
        features = exact_features(head, gradients, labels, kind=kind, tuning=self.factorisation, generator=generator)
        images = torch.rand((2, *knowledge.image_shape), generator=generator).to(labels.device).double()
        peeling = Peeling(
            model=doubled,
            gradients={name: tensor for name, tensor in received.items() if bool(tensor.any())},
            labels=labels,
            images=images,
            generator=generator,
            running=_in_float64(frozen(problem.model, statistics, received), problem) if statistics else None,
            couplings=couplings_of(doubled, images, convolutions_of(doubled, images), received),
            noise=distance.noise,
        )
        found = peeling.deepest(head.allowed(features), head)
        body = MapBody(
            model=single,
            convolution=found.before,
            image_shape=knowledge.image_shape,
            feature_map=(found.values.shape[1], found.values.shape[2], found.values.shape[3]),
            padded=found.padded,
        )
        decoder = fit_decoder(body, generator=generator)
        estimate = _estimate(found)
        pictures = decoder(estimate.features, estimate.noise)
        state = replace(
            state,
            pictures=pictures,
            refiner=KnownMaps(body=body, estimate=estimate, notes=(_sentence(found), proof)),
            feature_sensitivity=feature_sensitivity_of(body, pictures, tuning=self.search, generator=generator),
            losses=(*state.losses, found.off),
        )
        problem.report(len(state.losses) - 1)(1, found.off, lambda: state.pictures)
        return state


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownMaps:
    """Maps that were found for every image and do not change with the pictures; see `Refiner`.

    Args:
        body: Computes the map from pictures.
        estimate: The flattened maps.
        notes: Sentences for the reader of a report: which map it is, and how well it explains the update.
    """

    body: Body
    estimate: FeatureEstimate
    notes: tuple[str, ...]

    def __call__(self, pictures: Images) -> tuple[KnownMaps, FeatureEstimate]:
        """Return the maps, whatever the present pictures are."""
        return self, self.estimate


def _in_float64(model: Module, problem: Problem) -> Module:
    """Return a copy of the network in float64, in eval mode; the given network does not change."""
    try:
        doubled = in_mode(copy.deepcopy(model).double(), "eval")
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


def _require_rank(gradients: list[Float[Tensor, "_ _"]], n: int) -> None:
    """Check that the gradient of a head can tell n images apart.

    Args:
        gradients: The received gradient of each of its weights, first to last.
        n: Number of images.

    Raises:
        CannotPeelError: Its rank is less than n.
    """
    outputs, features = gradients[0].shape
    # The errors of one image over all classes add up to zero.
    rank = min(outputs - 1 if len(gradients) == 1 else outputs, features)
    if n > rank:
        raise CannotPeelError(
            f"The gradient of the Linear layer behind the pooled map tells at most {rank:,} images apart, and the "
            f"batch has {n:,}."
        )


def _estimate(found: PeeledMap) -> FeatureEstimate:
    """Return the flattened map, with the covariance of its errors."""
    values = found.values.flatten(1).float()
    covariance = values.new_zeros(1, len(values), len(values))
    if found.deviation is not None:
        deviation = found.deviation.expand_as(found.values).flatten(1).to(values)
        covariance = torch.diag_embed(deviation.square().T)
    return FeatureEstimate(values, values.new_zeros(len(values), 0), covariance, found.off)


def _sentence(found: PeeledMap) -> str:
    channels, height, width = found.values.shape[1:]
    noisy = more = ""
    if found.deviation is not None:
        noisy = f" Noise leaves errors of about {found.unsure:.1g} of the map's spread."
    if found.before != found.expected:
        more = f" From the shapes of its layers the input of {found.expected} was expected."
    return (
        "The batch was separated at every place of the network's pooled map, and the network was peeled down to the "
        f"input of {found.before}, a map of {channels} x {height} x {width}, which explains the gradients behind it "
        f"to {found.off:.0e}.{noisy} It ended there because {found.reason}.{more}"
    )
