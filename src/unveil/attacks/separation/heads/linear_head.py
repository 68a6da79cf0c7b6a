"""The Linear layers at the end of a network, found by watching it run, and everything that happens behind the features.

body: pictures -> features (a flattened map);   head: features -> logits, through one or more Linear layers.

The gradient of the head's first weight is ``D^T A``: its errors D (images x out) times the features A (images x in). D
follows from A and the public head alone, and A from the pictures and the public body alone. Neither costs the other.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.heads.places import Places
from unveil.attacks.separation.heads.tail import Tail, named
from unveil.core.arithmetic import rough_steps
from unveil.core.factored import Candidate, detached
from unveil.core.network import Draws, run
from unveil.core.protocols import LocalTraining
from unveil.core.tracing import Cut, Reached, Tape
from unveil.core.types import Batch, Images

PROBES = 64  # random inputs by which an activation is told
OWN = 0.05  # units whose slopes differ by more than this share at the same value have scales of their own


@dataclass(frozen=True, eq=False)
class Layer:
    """What one Linear layer of the head sees of a batch.

    Args:
        weight: Name of its weight.
        inputs: What goes in, images x in.
        outputs: What comes out, before any activation, images x out.
        errors: The mean loss's slope with respect to its output, images x out.
        pulls: The mean loss's slope with respect to `inputs`, images x in.
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
        model: The network, in the client's mode; only read.
        weights: Names of the Linear weights, first to last.
        image_shape: (channels, height, width) of its pictures.
        places: Which feature is which entry of the body's last map.
        rectified: No feature is negative, as behind ReLU.
        draws: Seed of what the network draws by chance, None for the mean of every draw.
        stochastic: Whether it draws anything by chance.
    """

    model: Module
    weights: tuple[str, ...]
    image_shape: tuple[int, int, int]
    places: Places
    rectified: bool
    draws: Draws = None
    stochastic: bool = False

    @property
    def feature_map(self) -> tuple[int, int, int]:
        """(channels, height, width) of the map that the features are."""
        return self.places.feature_map

    @property
    def kind(self) -> torch.dtype:
        """In which the attack computes behind the cut: that of the first weight, and float32 for half precision."""
        return torch.promote_types(named(self.model, self.weights[0]).dtype, torch.float32)

    def as_maps(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n c h w"]:
        """The features, each at its place in the body's last map."""
        return features[:, self.places.order].reshape(-1, *self.feature_map)

    def weight(self, layer: int) -> Float[Tensor, "out inside"]:
        """The weight of a Linear layer, counted from 0."""
        return named(self.model, self.weights[layer]).detach().to(self.kind)

    def allowed(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
        """The nearest features that the body can give."""
        return features.clamp_min(0) if self.rectified else features

    @property
    def is_guessed(self) -> bool:
        """Whether what the network drew by chance is not known, so that errors cannot be computed from features."""
        return self.stochastic and self.draws is None

    def without_draws(self) -> Head:
        """The same head with the mean in the place of every draw."""
        return replace(self, draws=None)

    def features(self, images: Images, *, rough: bool = False) -> Float[Tensor, "n features"]:
        """The flattened features of pictures, differentiable; the head is not run.

        Args:
            images: The pictures.
            rough: Three digits are enough: see `rough_steps`.
        """
        # Detached weights: a first-order step differentiates with respect to the pictures alone.
        weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        try:
            with (
                Cut(weights[self.weights[0]]),
                rough_steps(images) if rough else nullcontext(),
            ):
                run(self.model, images, weights, draws=self.draws)
        except Reached as reached:
            return reached.features.to(self.kind)
        raise AssertionError("the first weight of the head was not used")

    def layers(self, features: Float[Tensor, "n features"], labels: Tensor) -> list[Layer]:
        """Inputs and errors of each Linear layer for a batch of features, one gradient of the mean cross-entropy."""
        with torch.enable_grad():
            tape = Tape({id(named(self.model, name)): name for name in self.weights})
            with tape:
                logits = run(self._tail, features.detach().requires_grad_(), {}, draws=self.draws)
            loss = F.cross_entropy(logits, labels)
            wanted = [t for _, inputs, output in tape.seen for t in (inputs, output)]
            slopes = torch.autograd.grad(loss, wanted)
        return [
            Layer(name, *(t.detach().to(self.kind) for t in (inputs, output, slopes[2 * i + 1], slopes[2 * i])))
            for i, (name, inputs, output) in enumerate(tape.seen)
        ]

    def simulate(self, training: LocalTraining, features: Float[Tensor, "n features"], labels: Tensor) -> Candidate:
        """What the client would send for the head alone if its features stayed as they are during local training."""
        batch = Batch(features.detach()[:, :, None, None], labels)
        sent = training.simulate(self._tail, batch, draws=self.draws)
        return {name.removeprefix("model."): detached(value, self.kind) for name, value in sent.items()}

    def slope_of(self, layer: int, values: Float[Tensor, "n inside"]) -> Float[Tensor, "n inside"]:
        """The activation's slope before Linear `layer` (1 or later), told from what came out of the activation.

        The activation is not named anywhere: it is watched on random inputs, and each value is looked up among what
        came out of it then: of its own unit where units have scales of their own, as behind BatchNorm, else of all.
        Exact for ReLU, close for what is monotone.
        """
        after, slope = self._probed[layer]
        if after.shape[1] == values.shape[1] and _differ(after, slope):
            columns = [_looked_up(after[:, j], slope[:, j], values[:, j]) for j in range(values.shape[1])]
            return torch.stack(columns, 1)
        return _looked_up(after.flatten(), slope.flatten(), values)

    def open_slope(self, layer: int) -> Float[Tensor, " inside"]:
        """The slope of each unit's activation before Linear `layer` where it lets pass; 1 behind a plain ReLU."""
        return self._probed[layer][1].amax(0)

    @property
    def is_gated(self) -> bool:
        """Whether the activation behind the first Linear layer only lets pass or blocks, as ReLU does."""
        if len(self.weights) == 1:
            return False
        slope = self._probed[1][1]
        passes = (slope - slope.amax(0)).abs() <= 1e-4 * slope.amax(0)
        return bool(((slope == 0) | passes).all()) and bool((slope == 0).any())

    @cached_property
    def _probed(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Before each Linear layer but the first: what came out of the activation for random inputs, and its slope."""
        generator = torch.Generator().manual_seed(0)
        size = prod(self.weight(0).shape[1:])
        # Inputs of many sizes, so that values near zero are told from zero too.
        random = torch.randn((PROBES, size), generator=generator) * torch.logspace(-3, 0.5, PROBES)[:, None]
        random = random.to(self.weight(0).device).requires_grad_()
        tape = Tape({id(named(self.model, name)): name for name in self.weights})
        with torch.enable_grad(), tape:
            # Dropout whose masks nobody knows is a gate like another: what it lets pass, it makes larger.
            run(self._tail, random, {}, draws=0 if self.stochastic else None)
        found = {}
        for layer in range(1, len(self.weights)):
            before, after = tape.seen[layer - 1][2], tape.seen[layer][1]
            # Signs by chance: where pictures are mixed, as by BatchNorm, a unit's slope in itself is what stays.
            signs = torch.randint(2, (len(after), 1), generator=generator).to(after) * 2 - 1
            (slope,) = torch.autograd.grad((signs * after).sum(), before, retain_graph=True)
            found[layer] = (after.detach().to(self.kind), (signs * slope).to(self.kind))
        return found

    @cached_property
    def _tail(self) -> Tail:
        return Tail(self.model, self.weights[0], self.image_shape, exact=self.stochastic and self.draws is not None)


def _looked_up(seen: Tensor, slopes: Tensor, values: Tensor) -> Tensor:
    """For each value the slope that was seen at the nearest one; the nearest, as a solve leaves no exact zeros."""
    seen, order = seen.sort()
    slopes = slopes[order]
    above = torch.searchsorted(seen, values.contiguous()).clamp(1, len(seen) - 1)
    return slopes[torch.where(values - seen[above - 1] <= seen[above] - values, above - 1, above)]


def _differ(after: Tensor, slope: Tensor) -> bool:
    """Whether the same value has other slopes in other units."""
    order = after.flatten().argsort()
    along = slope.flatten()[order]
    return bool((along[1:] - along[:-1]).abs().mean() > OWN * along.abs().mean())
