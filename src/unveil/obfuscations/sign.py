"""Sign compression: one bit an entry."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unveil.core import Family, Misfit, Update
from unveil.obfuscations.observation import penalised
from unveil.spec import spec_of
from unveil.thin import Candidate, entrywise, square_norm


@dataclass(frozen=True, kw_only=True)
class Sign:
    """Send the sign of each entry, alone or times the tensor's mean magnitude.

    Wire cost: 1 bit a value (log2 3 where exact zeros occur, which stay zero), and 32 bits for each scale.

    Args:
        scale: Send each tensor's mean magnitude too.

    Reference:
        Bernstein et al., signSGD: Compressed Optimisation for Non-Convex Problems, ICML 2018;
        Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019 (the scale).
    """

    name: ClassVar[str] = "sign"
    family: ClassVar[Family] = "quantise"
    scale: bool = False

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Keep the signs; see `Obfuscation`."""
        tensors = {n: t.sign() * t.abs().mean() if self.scale else t.sign() for n, t in update.tensors.items()}
        zeros = any(bool((t == 0).any()) for t in update.tensors.values())
        coding = replace(
            update.coding,
            bits_per_value=math.log2(3) if zeros and not update.coding.sparse else 1,
            side_bits=update.coding.side_bits + (32 * len(tensors) if self.scale else 0),
        )
        return Update(tensors, coding)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """A soft margin on each sign, in units of the candidate's own size; with the scale, that too must agree."""
        signs = penalised(received, dict.fromkeys(received.tensors, _margin), sent_only=sent_only)
        sizes = {name: y.abs().sum() for name, y in received.tensors.items()}

        def misfit(candidate: Candidate) -> Tensor:
            # Signs say nothing of the length, and a zero candidate must not look like a good one.
            own = {
                name: value * (square_norm(value) / value.shape.numel()).clamp_min(1e-30).rsqrt()
                for name, value in candidate.items()
            }
            total = signs(own)
            if self.scale:
                for name, y in received.tensors.items():
                    if float(sizes[name]) > 0:
                        mean = entrywise(_magnitude if not sent_only else _sent_magnitude, candidate[name], y)
                        total = total + (mean / sizes[name] - 1).square() / len(sizes)
            return total

        return misfit

    @property
    def loses_scale(self) -> bool:
        """Signs have no length, and their common size is not that of the entries; see `Shrinking`."""
        return True

    __str__ = spec_of


def _margin(x: Tensor, y: Tensor) -> Tensor:
    """Logistic loss of the sign, and the square where an exact zero was received."""
    return torch.where(y == 0, x.square(), F.softplus(-x * y.sign()))


def _magnitude(x: Tensor, y: Tensor) -> Tensor:
    return x.abs()


def _sent_magnitude(x: Tensor, y: Tensor) -> Tensor:
    return x.abs() * (y != 0)
