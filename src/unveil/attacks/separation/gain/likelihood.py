"""The likelihood of a gain, given pictures for each gain: unknown learning rates, steps and clipping change the gain.

After the separation the features are known up to one factor: to the head alone, a longer update looks like that of
brighter pictures. The rest of the network differs: the gradient of a bias hardly grows with the brightness, that of a
weight does. So for each gain the attack makes the pictures of that gain, simulates the client on them, and compares the
direction and the length of each simulated tensor with those of the received tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, log10

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.attacks.separation.gain.levels import Levelled
from unveil.attacks.separation.heads.head import Head
from unveil.core.factored import Candidate, dense, inner, square_norm
from unveil.core.protocols import Knowledge, MayRescale
from unveil.core.types import Images

UNLIKE = 0.2  # cosine between two gradients of a last layer up to which only their lengths are compared
SUREST = 0.3  # smallest standard deviation of the logarithm of the gain that one tensor's length gives
LENGTHS = 0.4  # weight of the lengths relative to the directions, because the errors of lengths are correlated
ALIKE = 1e-4  # added to the squared sine of an angle before its logarithm: much smaller angles count as equal
LEAST = 0.03  # smaller cosines are raised to this one
GUESS = 1.0  # standard deviation of the logarithm of the first gain, which was estimated without pictures of the batch


def is_known(knowledge: Knowledge) -> bool:
    """Return whether the attacker knows that the update is as long as the assumed local training makes it."""
    obfuscation = knowledge.obfuscation
    if not knowledge.scale or obfuscation is None:
        return False
    return not (isinstance(obfuscation, MayRescale) and obfuscation.scale_unknown)


def first_gain(
    head: Head,
    knowledge: Knowledge,
    gradients: Sequence[Float[Tensor, "_ _"]],
    labels: Int[Tensor, " n"],
    examples: Float[Tensor, "examples features"],
    *,
    known: bool,
) -> tuple[float, float]:
    """Estimate the gain without pictures of the batch, from the last layer.

    The gradient of the last layer depends little on the pictures. So the client is simulated on dead leaves with the
    labels of the batch. If the gain is known the simulation stands for the received update; if not, the received
    gradient of the last layer is compared with the simulation and with one gradient on the dead leaves.

    Args:
        head: The head.
        knowledge: Gives the local training.
        gradients: The received gradient of each of the head's weights, after `level`.
        labels: The class index of each image.
        examples: Features of dead leaves, one row for each picture.
        known: Whether the update is as long as the local training makes it.

    Returns:
        The ratio of the update's length to that of one gradient, and its ratio to the length that the assumed local
        training gives; both are more than 0.
    """
    features = examples[torch.arange(len(labels), device=examples.device) % len(examples)]
    once = head.layers(features, labels)[-1]
    slope = once.errors.T @ once.inputs
    simulated = dense(head.simulate(knowledge.training, features, labels)[head.weights[-1]])
    sent = simulated if known else gradients[-1]

    def along(direction: Float[Tensor, "out inside"]) -> float:
        share = float((sent * direction).sum() / direction.square().sum())
        length = float(sent.norm() / direction.norm())
        # The projection is the better estimate, because noise does not lengthen it. But if every class is in the batch,
        # the part that all pictures share cancels out, and the gradients of other pictures have other directions.
        return max(share if share > UNLIKE * length else length, 1e-12)

    return along(slope), along(simulated)


@dataclass(frozen=True, kw_only=True, eq=False)
class GainLikelihood:
    """Compares the received update with updates simulated on pictures of several gains, tensor by tensor.

    The loss of a gain has three terms. *Directions*: at the true gain each simulated tensor has the direction of the
    received one, so the term is the sum of the logarithms of the squared sines of their angles. *Lengths*: for each
    tensor the logarithm of received over simulated length estimates that of the gain, once the lengthening by the
    obfuscation's noise is subtracted, which is one over the cosine of the smallest angle found. The variance of this
    estimate is the squared tangent of that angle plus ``SUREST**2``. The term has the weight `LENGTHS`, because details
    that are missing in the pictures change all lengths of a network alike. *First gain*: the squared distance from it
    in the logarithm, which decides in a network whose directions and lengths do not depend on the gain.

    Args:
        received: The received update without the obfuscation's effect on lengths.
        simulate: Pictures -> the update that the client would send for them.
        first: The gain that was estimated without pictures; more than 0.
    """

    received: Levelled
    simulate: Callable[[Images], Candidate]
    first: float

    def best(self, pictures: Callable[[float], Images], *, start: float, widths: Sequence[float]) -> float:
        """Find the gain of the lowest loss: five gains in each round, then a parabola through the lowest three.

        Args:
            pictures: Gain -> the pictures of this gain; they are darker for larger gains.
            start: The gain in the middle of the first round; more than 0.
            widths: Distance in decades of the outermost gains from the middle, for each round. The middle of a round is
                the best gain so far.
        """
        at = log10(start)
        tried: dict[float, tuple[Tensor, Tensor]] = {}
        losses: dict[float, float] = {}
        for width in widths:
            for decades in (at + width * k / 2 for k in (-2, -1, 0, 1, 2)):
                tried[decades] = self._compare(pictures(10**decades))
            losses = self._losses(tried)
            at = min(losses, key=losses.__getitem__)
        order = sorted(losses)
        place = order.index(at)
        if 0 < place < len(order) - 1:
            at = _lowest(*((x, losses[x]) for x in order[place - 1 : place + 2]))
        return float(10**at)

    def _compare(self, images: Images) -> tuple[Float[Tensor, " tensors"], Float[Tensor, " tensors"]]:
        """Compare the received tensors with those simulated on pictures.

        Returns:
            The natural logarithm of received over simulated length of each tensor, and the cosine between the two.
        """
        simulated = self.simulate(images)
        ratios, cosines = [], []
        for name in self._names:
            received = self.received.tensors[name]
            length = float(square_norm(simulated[name]).detach().clamp_min(1e-30).sqrt())
            ratios.append(log(float(received.norm()) / length))
            cosines.append(float(inner(simulated[name], received).detach() / received.norm()) / length)
        return torch.tensor(ratios), torch.tensor(cosines).clamp(LEAST, 1.0)

    def _losses(
        self, tried: dict[float, tuple[Float[Tensor, " tensors"], Float[Tensor, " tensors"]]]
    ) -> dict[float, float]:
        """Return the loss of each gain that was tried.

        Args:
            tried: Decadic logarithm of each gain -> the result of `_compare` for its pictures.
        """
        nearest = torch.stack([cosine for _, cosine in tried.values()]).amax(0)
        clear = torch.tensor([self.received.clear[name] for name in self._names]).clamp_min(LEAST)
        longer = -torch.maximum(clear, nearest).log()
        variance = SUREST**2 + nearest**-2 - 1

        def loss(gain: float, ratio: Float[Tensor, " tensors"], cosine: Float[Tensor, " tensors"]) -> float:
            directions = float((1 + ALIKE - cosine.square()).log().sum())
            lengths = float(((ratio - longer - gain).square() / variance).sum())
            return directions + LENGTHS * lengths + ((gain - log(self.first)) / GUESS) ** 2

        return {decades: loss(decades * log(10), *found) for decades, found in tried.items()}

    @property
    def _names(self) -> list[str]:
        """Names of the received tensors that are not all zero."""
        return [name for name, tensor in self.received.tensors.items() if bool(tensor.any())]


def _lowest(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> float:
    """Return the place where a parabola through three points is lowest; the middle point has the smallest value."""
    (a, fa), (b, fb), (c, fc) = left, middle, right
    above, below = (b - a) ** 2 * (fb - fc) - (b - c) ** 2 * (fb - fa), (b - a) * (fb - fc) - (b - c) * (fb - fa)
    return b - 0.5 * above / below if below else b
