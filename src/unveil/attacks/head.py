"""The Linear layers at the end of a network, found by watching it run, and everything that happens behind the features.

body: pictures -> features (a flattened map);   head: features -> logits, through one or more Linear layers.

The gradient of the head's first weight is ``D^T A``: its errors D (images x out) times the features A (images x in). D
follows from A and the public head alone, and A from the pictures and the public body alone. Neither costs the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.watching import Cut, Feed, Reached, Tape
from unveil.core import Batch, Images, LocalTraining
from unveil.gradient import in_mode
from unveil.thin import Candidate, detached


class NoHeadError(Exception):
    """Why the batch cannot be separated into single images behind this network; a sentence for the reader."""


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
        feature_map: (channels, height, width) whose flattening goes into the first weight.
        rectified: No feature is negative, as behind ReLU.
    """

    model: Module
    weights: tuple[str, ...]
    image_shape: tuple[int, int, int]
    feature_map: tuple[int, int, int]
    rectified: bool

    def weight(self, layer: int) -> Float[Tensor, "out inside"]:
        """The weight of a Linear layer, counted from 0."""
        return _named(self.model, self.weights[layer]).detach()

    def allowed(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
        """The nearest features that the body can give."""
        return features.clamp_min(0) if self.rectified else features

    def features(self, images: Images, *, rough: bool = False) -> Float[Tensor, "n features"]:
        """The flattened features of pictures, differentiable; the head is not run.

        Args:
            images: The pictures.
            rough: Three digits are enough: computed in bfloat16 where the processor has it, a third faster.
        """
        # Detached weights: a first-order step differentiates with respect to the pictures alone.
        weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        weight = weights[self.weights[0]]
        if self.model.training:
            weights |= {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        images = images.contiguous(memory_format=torch.channels_last)
        try:
            with (
                Cut(weight),
                torch.autocast(images.device.type, torch.bfloat16, enabled=rough and _has_bfloat16(images)),
            ):
                torch.func.functional_call(self.model, weights, (images,))
        except Reached as reached:
            return reached.features.float() if rough else reached.features
        raise AssertionError("the first weight of the head was not used")

    def layers(self, features: Float[Tensor, "n features"], labels: Tensor) -> list[Layer]:
        """Inputs and errors of each Linear layer for a batch of features, one gradient of the mean cross-entropy."""
        with torch.enable_grad():
            start = features.detach().requires_grad_()
            tape = Tape({id(_named(self.model, name)): name for name in self.weights})
            with tape:
                logits = _Tail(self.model, self.weights[0], self.image_shape)(start)
            loss = F.cross_entropy(logits, labels)
            wanted = [t for _, inputs, output in tape.seen for t in (inputs, output)]
            slopes = torch.autograd.grad(loss, wanted)
        return [
            Layer(name, inputs.detach(), output.detach(), slopes[2 * i + 1], slopes[2 * i])
            for i, (name, inputs, output) in enumerate(tape.seen)
        ]

    def simulate(self, training: LocalTraining, features: Float[Tensor, "n features"], labels: Tensor) -> Candidate:
        """What the client would send for the head alone if its features stayed as they are during local training."""
        tail = _Tail(self.model, self.weights[0], self.image_shape)
        sent = training.simulate(tail, Batch(features.detach()[:, :, None, None], labels))
        return {name.removeprefix("model."): detached(value) for name, value in sent.items()}

    def slope_of(self, layer: int, values: Float[Tensor, "n inside"]) -> Float[Tensor, "n inside"]:
        """The activation's slope before Linear `layer` (1 or later), told from what came out of the activation.

        The activation is not named anywhere: it is watched on random inputs, and each value is looked up among what
        came out of it then. Exact for ReLU, close for what is monotone.
        """
        generator = torch.Generator().manual_seed(0)
        size = prod(self.feature_map)
        # Inputs of many sizes, so that values near zero are told from zero too.
        random = torch.randn((16, size), generator=generator) * torch.logspace(-3, 0.5, 16)[:, None]
        random = random.to(self.weight(0))
        tape = Tape({id(_named(self.model, name)): name for name in self.weights})
        with torch.enable_grad(), tape:
            _Tail(self.model, self.weights[0], self.image_shape)(random.requires_grad_())
            before, after = tape.seen[layer - 1][2], tape.seen[layer][1]
            (slope,) = torch.autograd.grad(after.sum(), before)
        seen, order = after.detach().flatten().sort()
        slopes = slope.flatten()[order]
        # The nearest, not the next: what a solve leaves of a closed gate is not exactly zero.
        above = torch.searchsorted(seen, values.contiguous()).clamp(1, len(seen) - 1)
        nearest = torch.where(values - seen[above - 1] <= seen[above] - values, above - 1, above)
        return slopes[nearest]

    @property
    def is_gated(self) -> bool:
        """Whether the activation behind the first Linear layer only lets pass or blocks, as ReLU does."""
        if len(self.weights) == 1:
            return False
        probe = torch.linspace(-3, 3, 512).to(self.weight(0))
        slopes = self.slope_of(1, probe[None])
        return bool(((slopes == 0) | (slopes == 1)).all()) and bool((slopes == 0).any())


def read_head(model: Module, image_shape: tuple[int, int, int], *, training: LocalTraining) -> Head:
    """Find the Linear layers at the end of a network.

    Raises:
        NoHeadError: There are none, or what goes into them is not a flattened map.
    """
    client = in_mode(model, training.mode)
    parameters = {id(p): name for name, p in client.named_parameters() if p.requires_grad}
    like = next(iter(client.parameters()))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, *image_shape), generator=generator).to(like)
    tape = Tape(parameters, maps=[images])
    buffers = {name: buffer.clone() for name, buffer in client.named_buffers()}
    with torch.no_grad(), tape:
        logits = torch.func.functional_call(client, buffers, (images,))
    chain: list[tuple[str, Tensor, Tensor]] = []
    for name, inputs, output in reversed(tape.seen):
        follows = output.shape == (chain[0][1].shape if chain else logits.shape)
        if inputs.dim() != 2 or not follows or (not chain and not torch.equal(output, logits)):
            break
        chain.insert(0, (name, inputs, output))
    if not chain:
        raise NoHeadError("The network does not end in a Linear layer, so the batch cannot be separated.")
    features = chain[0][1]
    source = next((m for m in reversed(tape.maps) if torch.equal(m.flatten(1), features)), None)
    if source is None or source.shape[2:].numel() == 1:
        raise NoHeadError(
            "The network pools its last map before its Linear layers, so an image's features are only "
            f"{features.shape[1]} numbers without a place in the picture: the batch was not separated."
        )
    return Head(
        model=client,
        weights=tuple(name for name, *_ in chain),
        image_shape=image_shape,
        feature_map=(source.shape[1], source.shape[2], source.shape[3]),
        rectified=bool((features >= 0).all()) and bool((features == 0).any()),
    )


def _has_bfloat16(images: Tensor) -> bool:
    """Whether arithmetic in bfloat16 is the processor's own, not emulated, for these pictures."""
    if images.dtype != torch.float32:
        return False
    if images.device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return images.device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


class _Tail(Module):
    """The head as a network of its own: the body runs on one blank picture and its features are replaced."""

    def __init__(self, model: Module, weight: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.model = in_mode(model, "eval")
        self.weight = weight
        self.image_shape = image_shape

    def forward(self, features: Tensor) -> Tensor:
        """Logits of features."""
        weight = _named(self.model, self.weight)
        with Feed(weight, features.flatten(1)):
            logits: Tensor = self.model(features.new_zeros((1, *self.image_shape)))
        return logits


def _named(model: Module, name: str) -> Tensor:
    """A parameter by its dotted name, also while `functional_call` has put another tensor in its place."""
    found: Any = model
    for part in name.split("."):
        found = getattr(found, part)
    tensor: Tensor = found
    return tensor
