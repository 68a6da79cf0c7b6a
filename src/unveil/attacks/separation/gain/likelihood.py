"""How much longer an update is than the assumed local training makes it: by its learning rate, steps or clipping.

Behind the separation the features are known up to one factor, and the head alone cannot tell a longer update from
brighter pictures. The rest of the network can: the gradient of a bias hardly grows with the picture, that of a weight
does. So for each gain the pictures that go with it are made, the client is simulated on them, and every tensor is asked
which way it points and how long it is, compared with what was received.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, log10

import torch
from torch import Tensor

from unveil.attacks.separation.gain.levels import Levelled
from unveil.attacks.separation.heads.head import Head
from unveil.core.factored import Candidate, dense, inner, square_norm
from unveil.core.protocols import Knowledge, MayRescale
from unveil.core.types import Images

UNLIKE = 0.2  # cosine below which two gradients of a last layer have too little in common to be compared
SUREST = 0.3  # no tensor's length is taken to tell the logarithm of the gain more surely than this
LENGTHS = 0.4  # weight of lengths beside directions: in a network they are wrong together
ALIKE = 1e-4  # squared sine of an angle below which two tensors point the same way
LEAST = 0.03  # of a cosine: below, a tensor says next to nothing
GUESS = 1.0  # standard deviation of the logarithm of a first gain, told from pictures that are not the batch's


def is_known(knowledge: Knowledge) -> bool:
    """Whether the received update is as long as the assumed local training makes it."""
    obfuscation = knowledge.obfuscation
    if not knowledge.scale or obfuscation is None:
        return False
    return not (isinstance(obfuscation, MayRescale) and obfuscation.scale_unknown)


def first_gain(
    head: Head, knowledge: Knowledge, gradients: Sequence[Tensor], labels: Tensor, examples: Tensor, *, known: bool
) -> tuple[float, float]:
    """How much longer the update is than one gradient, and than what the assumed local training gives.

    Told from the last layer, whose gradient is nearly the same for all pictures: the client is simulated on dead leaves
    with the batch's labels, and compared with one gradient there and, where the gain is not known, with what was
    received.

    Args:
        head: The head.
        knowledge: The local training is taken from it.
        gradients: What was received for each of the head's weights, levelled.
        labels: One class an image.
        examples: Features of dead leaves, one row each.
        known: Whether the update is as long as the local training makes it.
    """
    features = examples[torch.arange(len(labels), device=examples.device) % len(examples)]
    once = head.layers(features, labels)[-1]
    slope = once.errors.T @ once.inputs
    simulated = dense(head.simulate(knowledge.training, features, labels)[head.weights[-1]])
    sent = simulated if known else gradients[-1]

    def along(direction: Tensor) -> float:
        share = float((sent * direction).sum() / direction.square().sum())
        length = float(sent.norm() / direction.norm())
        # Where every class is in the batch, what all pictures have in common cancels out, and other pictures' gradient
        # points elsewhere: its length says more. Else the share, to which noise adds nothing.
        return max(share if share > UNLIKE * length else length, 1e-12)

    return along(slope), along(simulated)


@dataclass(frozen=True, kw_only=True, eq=False)
class GainLikelihood:
    """Compares the received update with those simulated on pictures of several brightnesses, tensor by tensor.

    Two things are weighed in one negative log-likelihood. *Directions*: at the right gain every tensor points the way
    that the received one does, so the logarithm of the squared sine of their angle counts, each tensor as much.
    *Lengths*: the logarithm of received over simulated length is that of the gain, in every tensor, once the noise of
    the obfuscation is taken out, which makes the received one longer by its own angle. It counts by how nearly the two
    point the same way, its variance being the squared tangent of their angle, and less than its due: what is missing in
    the pictures makes all lengths of a network wrong together.

    Args:
        received: The update, levelled.
        simulate: (pictures) -> what the client would send for them.
        first: The gain before there were pictures; all that is known in a network whose lengths tell nothing.
    """

    received: Levelled
    simulate: Callable[[Images], Candidate]
    first: float

    def best(self, pictures: Callable[[float], Images], *, start: float, widths: Sequence[float]) -> float:
        """The likeliest gain, judged by the update of the pictures that go with it.

        Args:
            pictures: (gain) -> the pictures that go with it: the larger the gain, the darker.
            start: The gain in the middle of what is tried.
            widths: Decades that are tried to each side, one round after the other.
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

    def _compare(self, images: Images) -> tuple[Tensor, Tensor]:
        """For each tensor the logarithm of received over simulated length, and the cosine of the two."""
        simulated = self.simulate(images)
        ratios, cosines = [], []
        for name in self._names:
            received = self.received.tensors[name]
            length = float(square_norm(simulated[name]).detach().clamp_min(1e-30).sqrt())
            ratios.append(log(float(received.norm()) / length))
            cosines.append(float(inner(simulated[name], received).detach() / received.norm()) / length)
        return torch.tensor(ratios), torch.tensor(cosines).clamp(LEAST, 1.0)

    def _losses(self, tried: dict[float, tuple[Tensor, Tensor]]) -> dict[float, float]:
        """The negative log-likelihood of each gain, up to a constant."""
        nearest = torch.stack([cosine for _, cosine in tried.values()]).amax(0)
        clear = torch.tensor([self.received.clear[name] for name in self._names]).clamp_min(LEAST)
        longer = -torch.maximum(clear, nearest).log()
        variance = SUREST**2 + nearest**-2 - 1

        def loss(gain: float, ratio: Tensor, cosine: Tensor) -> float:
            directions = float((1 + ALIKE - cosine.square()).log().sum())
            lengths = float(((ratio - longer - gain).square() / variance).sum())
            return directions + LENGTHS * lengths + ((gain - log(self.first)) / GUESS) ** 2

        return {decades: loss(decades * log(10), *found) for decades, found in tried.items()}

    @property
    def _names(self) -> list[str]:
        return [name for name, tensor in self.received.tensors.items() if bool(tensor.any())]


def _lowest(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> float:
    """Where the parabola through three points is lowest; the middle one has the smallest value."""
    (a, fa), (b, fb), (c, fc) = left, middle, right
    above, below = (b - a) ** 2 * (fb - fc) - (b - c) ** 2 * (fb - fa), (b - a) * (fb - fc) - (b - c) * (fb - fa)
    return b - 0.5 * above / below if below else b
