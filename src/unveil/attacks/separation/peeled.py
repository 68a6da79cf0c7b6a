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
from unveil.attacks.separation.inner_maps import MOST, InnerEstimate
from unveil.attacks.separation.mixing_matrix import exact_features
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.map_body import InnerMap, MapBody
from unveil.attacks.separation.peeling.noise import distance_of
from unveil.attacks.separation.peeling.peel import Peeling
from unveil.attacks.separation.peeling.peeled_map import InputMap, PeeledMap
from unveil.attacks.separation.peeling.watch import convolutions_of
from unveil.attacks.separation.stages import feature_sensitivity_of
from unveil.attacks.separation.state import Problem, State
from unveil.attacks.separation.tuning import FactorisationTuning, SearchTuning
from unveil.core.errors import UsageError
from unveil.core.network import in_mode, run
from unveil.core.types import Images

LONGER = 10  # factor of the steps of a search: exact maps give away more the longer it takes


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
        body, estimate = _body_of(single, found, knowledge.image_shape), _estimate(found)
        decoder = fit_decoder(body, generator=generator, plenty=True)
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


def _body_of(model: Module, found: PeeledMap, image_shape: tuple[int, int, int]) -> MapBody:
    """Return the network up to the deepest map."""

    def shape_of(one: InputMap) -> tuple[int, int, int]:
        return one.values.shape[1], one.values.shape[2], one.values.shape[3]

    inner = [InnerMap(convolution=one.before, feature_map=shape_of(one), padded=one.padded) for one in found.inner]
    deepest = found.deepest
    return MapBody(
        model=model,
        convolution=deepest.before,
        image_shape=image_shape,
        feature_map=shape_of(deepest),
        padded=deepest.padded,
        inner=tuple(inner),
    )


def _estimate(found: PeeledMap) -> FeatureEstimate:
    """Return the deepest map, flattened, and the maps on the way, with the covariances of their errors."""
    deepest = found.deepest
    values = deepest.values.flatten(1).float()
    covariance = values.new_zeros(1, len(values), len(values))
    if deepest.deviation is not None:
        deviation = deepest.deviation.expand_as(deepest.values).flatten(1).to(values)
        covariance = torch.diag_embed(deviation.square().T)
    inner = tuple(_inner(one) for one in found.inner)
    return FeatureEstimate(values, values.new_zeros(len(values), 0), covariance, found.off, inner)


def _inner(one: InputMap) -> InnerEstimate:
    """Return a map on the way to the deepest one, with the covariance of its errors."""
    values = one.values.float()
    if one.covariance is not None and len(one.covariance) <= MOST:
        return InnerEstimate(values=values, covariance=one.covariance.float())
    deviation = torch.zeros_like(values[:, :1]) if one.deviation is None else one.deviation.to(values)
    return InnerEstimate(values=values, covariance=deviation.square().flatten())


def _sentence(found: PeeledMap) -> str:
    deepest = found.deepest
    channels, height, width = deepest.values.shape[1:]
    inner = noisy = more = ""
    if found.inner:
        names = " and ".join(f"{one.before} to {one.unsure:.1g} of its spread" for one in found.inner)
        inner = f" On the way to it, the input of {names} was found too."
    if deepest.deviation is not None:
        noisy = f" Noise leaves errors of about {deepest.unsure:.1g} of the map's spread."
    if deepest.before != found.expected:
        more = f" From the shapes of its layers the input of {found.expected} was expected."
    return (
        "The batch was separated at every place of the network's pooled map, and the network was peeled down to the "
        f"input of {deepest.before}, a map of {channels} x {height} x {width}, which explains the gradients behind it "
        f"to {found.off:.0e}.{noisy}{inner} It ended there because {found.reason}.{more}"
    )
