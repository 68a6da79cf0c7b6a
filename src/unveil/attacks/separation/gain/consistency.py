"""The gain of an update that arrived exactly: the only gain at which the head's errors span its own gradient.

At any other gain the features have another size, so the head computes other class probabilities and other errors, whose
rows do not span the gradient of the head's first weight. The difference is tiny, and is seen only if there is no noise.
"""

from __future__ import annotations

from math import copysign, exp

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.weighted_lstsq import gram_of, solve

ROUNDS, AGAIN = 12, 3  # alternations of errors and features at the first gain, and at each other gain
WIDTHS = (0.3, 0.1, 0.02, 0.005)  # distances of the outer points of each parabola, in the natural logarithm of the gain
FURTHEST = 3.0  # a parabola moves the gain by at most this number of its widths
APART = 0.1  # distance from the best gain, in its natural logarithm, at which the gradient is compared
DEEP = 0.1  # the unexplained share of energy at the best gain is at most this share of that at the compared gains
HOPELESS = 0.1  # unexplained share of energy from which on noise or local steps hide the best gain


def consistent_gain(
    head: Head,
    gradient: Float[Tensor, "out features"],
    labels: Int[Tensor, " n"],
    features: Float[Tensor, "n features"],
    gain: float,
) -> float | None:
    """Find the gain near a given one at which features, errors and gradient agree.

    Args:
        head: The head.
        gradient: The received gradient of the head's first weight.
        labels: The class index of each image.
        features: The features that were separated at the given gain, one row for each image.
        gain: Approximate ratio of the update's length to that of one gradient; more than 0.

    Returns:
        That ratio; None if noise hides it, or if other gains explain the gradient about as well.
    """
    gram = gram_of(gradient)
    energy = float(gram.trace())
    agreed = features * gain

    def unexplained(step: float, rounds: int = AGAIN) -> float:
        """Return the unexplained share of the gradient's energy, 0 to 1, at a gain exp(step) times as large."""
        nonlocal agreed
        now = gain * exp(step)
        for _ in range(rounds):
            errors = head.layers(head.allowed(agreed / now), labels)[0].errors
            agreed = solve(errors, gradient, 1e-7)
        errors = head.layers(head.allowed(agreed / now), labels)[0].errors.double()
        inverse = torch.linalg.pinv(errors @ errors.T, hermitian=True)
        return 1 - float((inverse * (errors @ gram @ errors.T)).sum()) / energy

    at, best = 0.0, unexplained(0.0, ROUNDS)
    if not best < HOPELESS:
        return None
    for width in WIDTHS:
        left, right = unexplained(at - width), unexplained(at + width)
        bend, slope = left - 2 * best + right, 0.5 * (left - right)
        step = slope / bend if bend > abs(slope) / FURTHEST else copysign(FURTHEST, slope)
        next_ = at + width * step
        at, best = min((at, best), (next_, unexplained(next_)), key=lambda pair: pair[1])
    stands_out = best <= DEEP * min(unexplained(at - APART), unexplained(at + APART))
    return gain * exp(at) if stands_out else None
