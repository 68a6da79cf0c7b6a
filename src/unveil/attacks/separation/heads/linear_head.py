"""The head of a network: its Linear layers at the end, found by watching it run, and the slopes of the loss there.

body: pictures -> features (a flattened map);   head: features -> logits, through one or more Linear layers.

The gradient of the head's first weight is ``D^T A``: its errors D (images x out) times the features A (images x in).
The errors are computed from the features without running the body, and the features from the pictures without running
the head.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.heads.places import Places
from unveil.attacks.separation.heads.tail import Tail, named
from unveil.core.arithmetic import rough_steps
from unveil.core.batch import Batch
from unveil.core.factored import Candidate, detached
from unveil.core.layouts import USUAL, fast_layout
from unveil.core.loss import MEAN, Loss
from unveil.core.network import Draws, run
from unveil.core.protocols import LocalTraining
from unveil.core.tracing import Cut, Reached, Tape
from unveil.core.types import Images

PROBES = 64  # random inputs on which an activation is observed
OWN = 0.05  # relative difference of slopes at about the same value above which each unit is looked up by itself


@dataclass(frozen=True, eq=False)
class Layer:
    """Inputs, outputs and slopes of one Linear layer of the head for a batch.

    Args:
        weight: Name of the layer's weight.
        inputs: The layer's inputs, images x in.
        outputs: The layer's outputs, before any activation, images x out.
        errors: Slope of the mean loss with respect to `outputs`, images x out.
        pulls: Slope of the mean loss with respect to `inputs`, images x in.
    """

    weight: str
    inputs: Float[Tensor, "n inside"]
    outputs: Float[Tensor, "n out"]
    errors: Float[Tensor, "n out"]
    pulls: Float[Tensor, "n inside"]


@dataclass(frozen=True, eq=False)
class Head:
    """A network cut in two before the first of its last Linear layers.

    Args:
        model: The network in the client's mode; it is not changed.
        weights: Names of the Linear weights, first to last.
        image_shape: (channels, height, width) of the network's pictures.
        places: The entry of the body's last map that each feature is.
        rectified: Whether all features are at least 0, as behind ReLU.
        draws: Seed of the network's random draws; None to take the mean of every draw.
        stochastic: Whether the network draws anything at random.
        loss: The client's loss; the gain says whether it is a mean or a sum.
    """

    model: Module
    weights: tuple[str, ...]
    image_shape: tuple[int, int, int]
    places: Places
    rectified: bool
    draws: Draws = None
    stochastic: bool = False
    loss: Loss = MEAN

    @property
    def feature_map(self) -> tuple[int, int, int]:
        """(channels, height, width) of the map whose entries are the features."""
        return self.places.feature_map

    @property
    def kind(self) -> torch.dtype:
        """The type in which the attack computes behind the cut: the first weight's, or float32 for half precision."""
        return torch.promote_types(named(self.model, self.weights[0]).dtype, torch.float32)

    def as_maps(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n c h w"]:
        """Return the features as maps, each feature at its place in the body's last map."""
        return features[:, self.places.order].reshape(-1, *self.feature_map)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return named(self.model, self.weights[0]).device

    def weight(self, layer: int) -> Float[Tensor, "out inside"]:
        """Return the weight of a Linear layer of the head; layers are counted from 0."""
        return named(self.model, self.weights[layer]).detach().to(self.kind)

    def allowed(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
        """Return the nearest features that the body can compute: negative ones become 0 if the body is rectified."""
        return features.clamp_min(0) if self.rectified else features

    @property
    def is_guessed(self) -> bool:
        """Whether the network's random draws are unknown, so that errors cannot be computed from features."""
        return self.stochastic and self.draws is None

    def without_draws(self) -> Head:
        """Return the same head with the mean of every draw."""
        return replace(self, draws=None)

    def features(self, images: Images, *, rough: bool = False) -> Float[Tensor, "n features"]:
        """Compute the flattened features of pictures; differentiable. The head is not run.

        Args:
            images: The pictures, n x c x h x w in [0, 1].
            rough: Whether three digits are enough; see `rough_steps`.
        """
        # The cut is entered last, so that it sees each call before anything else does.
        with rough_steps(images) if rough else nullcontext():
            return self._computed(images, self._layout)

    @cached_property
    def _layout(self) -> torch.memory_format:
        """The memory layout of pictures for the body; the usual one if draws of a seed depend on it."""
        return USUAL if self.draws is not None else fast_layout(self._computed, self.image_shape, self.device)

    def _computed(self, images: Images, layout: torch.memory_format) -> Float[Tensor, "n features"]:
        # The weights are detached because only the pictures are differentiated with respect to.
        weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        try:
            with Cut(weights[self.weights[0]]):
                run(self.model, images, weights, draws=self.draws, layout=layout)
        except Reached as reached:
            return reached.features.to(self.kind)
        raise AssertionError("the first weight of the head was not used")

    def layers(self, features: Float[Tensor, "n features"], labels: Int[Tensor, " n"]) -> list[Layer]:
        """Compute inputs, outputs and slopes of each Linear layer for a batch of features.

        Args:
            features: The features, one row for each image.
            labels: The class index of each image.

        Returns:
            One entry for each Linear layer, first to last; the loss is the mean over the images.
        """
        with torch.enable_grad():
            tape = Tape({id(named(self.model, name)): name for name in self.weights})
            with tape:
                logits = run(self._tail, features.detach().requires_grad_(), {}, draws=self.draws)
            loss = self.loss.mean(logits, labels)
            wanted = [t for _, inputs, output in tape.seen for t in (inputs, output)]
            slopes = torch.autograd.grad(loss, wanted)
        return [
            Layer(name, *(t.detach().to(self.kind) for t in (inputs, output, slopes[2 * i + 1], slopes[2 * i])))
            for i, (name, inputs, output) in enumerate(tape.seen)
        ]

    def simulate(
        self, training: LocalTraining, features: Float[Tensor, "n features"], labels: Int[Tensor, " n"]
    ) -> Candidate:
        """Simulate the client's update of the head, as if its features did not change during local training.

        Args:
            training: The local training.
            features: The features, one row for each image.
            labels: The class index of each image.

        Returns:
            The update of the parameters, by their names in the network.
        """
        batch = Batch(features.detach()[:, :, None, None], labels)
        sent = training.simulate(self._tail, batch, draws=self.draws)
        return {name.removeprefix("model."): detached(value, self.kind) for name, value in sent.items()}

    def slope_of(self, layer: int, values: Float[Tensor, "n inside"]) -> Float[Tensor, "n inside"]:
        """Look up the slope of the activation before a Linear layer from the activation's output.

        The kind of the activation is not known. It was observed on random inputs, and the slope of a value is that of
        the nearest observed output: of the same unit if the units differ, as behind BatchNorm, else of any unit. The
        slope is exact for ReLU, and an approximation for other monotone activations.

        Args:
            layer: Number of the Linear layer, 1 or more.
            values: Outputs of the activation, which are the inputs of the layer.
        """
        after, slope = self._probed[layer]
        if after.shape[1] == values.shape[1] and _differ(after, slope):
            columns = [_looked_up(after[:, j], slope[:, j], values[:, j]) for j in range(values.shape[1])]
            return torch.stack(columns, 1)
        return _looked_up(after.flatten(), slope.flatten(), values)

    def open_slope(self, layer: int) -> Float[Tensor, " inside"]:
        """Return the largest observed slope of each unit's activation before a Linear layer; 1 for a plain ReLU.

        Args:
            layer: Number of the Linear layer, 1 or more.
        """
        return self._probed[layer][1].amax(0)

    @property
    def is_gated(self) -> bool:
        """Whether each unit's activation behind the first Linear layer has one slope beside 0, as ReLU has."""
        if len(self.weights) == 1:
            return False
        slope = self._probed[1][1]
        passes = (slope - slope.amax(0)).abs() <= 1e-4 * slope.amax(0)
        return bool(((slope == 0) | passes).all()) and bool((slope == 0).any())

    @cached_property
    def _probed(self) -> dict[int, tuple[Float[Tensor, "probes _"], Float[Tensor, "probes _"]]]:
        """Outputs of the activations for random inputs, and the slopes of the activations there.

        A key is the number of the Linear layer behind the activation, 1 or more; both matrices are inputs x units.
        """
        generator = torch.Generator().manual_seed(0)
        size = prod(self.weight(0).shape[1:])
        # The sizes of the inputs span 3.5 decades, so that slopes are observed close to zero too.
        random = torch.randn((PROBES, size), generator=generator) * torch.logspace(-3, 0.5, PROBES)[:, None]
        random = random.to(self.weight(0).device).requires_grad_()
        tape = Tape({id(named(self.model, name)): name for name in self.weights})
        with torch.enable_grad(), tape:
            # Dropout with unknown masks is observed as part of the activation: its slope is 0, or more than 1.
            run(self._tail, random, {}, draws=0 if self.stochastic else None)
        found = {}
        for layer in range(1, len(self.weights)):
            before, after = tape.seen[layer - 1][2], tape.seen[layer][1]
            # If a layer mixes the inputs, as BatchNorm does, random signs cancel the slopes between inputs on average.
            signs = torch.randint(2, (len(after), 1), generator=generator).to(after) * 2 - 1
            (slope,) = torch.autograd.grad((signs * after).sum(), before, retain_graph=True)
            found[layer] = (after.detach().to(self.kind), (signs * slope).to(self.kind))
        return found

    @cached_property
    def _tail(self) -> Tail:
        """The head as a network of its own."""
        return Tail(self.model, self.weights[0], self.image_shape, exact=self.stochastic and self.draws is not None)


def _looked_up(
    seen: Float[Tensor, " seen"], slopes: Float[Tensor, " seen"], values: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Return for each value the slope at the nearest observed output; values from a solve are never exactly zero.

    Args:
        seen: Observed outputs of an activation, in any order.
        slopes: Slope of the activation at each of them.
        values: The values to look up.
    """
    seen, order = seen.sort()
    slopes = slopes[order]
    above = torch.searchsorted(seen, values.contiguous()).clamp(1, len(seen) - 1)
    return slopes[torch.where(values - seen[above - 1] <= seen[above] - values, above - 1, above)]


def _differ(after: Float[Tensor, "probes units"], slope: Float[Tensor, "probes units"]) -> bool:
    """Return whether the units of an activation have different slopes at about the same output.

    Args:
        after: Observed outputs of the activation.
        slope: Slope of the activation at each of them.
    """
    order = after.flatten().argsort()
    along = slope.flatten()[order]
    return bool((along[1:] - along[:-1]).abs().mean() > OWN * along.abs().mean())
