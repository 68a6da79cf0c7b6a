"""The gain of an update that arrived exactly: the only one at which the head explains its own gradient.

Features of another size give other class probabilities, and so other errors, whose rows no longer span the gradient of
the head's first weight. The difference is tiny, but without noise there is nothing else.
"""

from __future__ import annotations

from math import copysign, exp

import torch
from torch import Tensor

from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.weighted_lstsq import solve

ROUNDS, AGAIN = 12, 3  # of errors from features and features from errors, at the first gain and at each other
WIDTHS = (0.3, 0.1, 0.02, 0.005)  # in the gain's logarithm: parabolas, one after the other
FURTHEST = 3.0  # widths that one parabola may lead away
APART = 0.1  # how far from the best gain, in its logarithm, the gradient must be explained worse
DEEP = 0.1  # share of what is unexplained there that may be left at the best gain
HOPELESS = 0.1  # share of the energy beyond which noise or local steps hide the difference


def consistent_gain(head: Head, gradient: Tensor, labels: Tensor, features: Tensor, gain: float) -> float | None:
    """The gain near the given one at which features, errors and gradient agree; None where no gain stands out.

    Args:
        head: The head.
        gradient: What was received for its first weight, out x features.
        labels: One class an image.
        features: What was separated at the given gain, one row an image.
        gain: How much longer the update is than one gradient, about.
    """
    gram = gradient.double() @ gradient.double().T
    energy = float(gram.trace())
    agreed = features * gain

    def unexplained(step: float, rounds: int = AGAIN) -> float:
        """Share of the energy that is left at a gain exp(step) times as large."""
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
