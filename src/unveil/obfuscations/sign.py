"""Sign compression: one bit an entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unveil.core.factored import Candidate, entrywise
from unveil.core.protocols import Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.obfuscations.groups import count_groups, each_group, packed
from unveil.obfuscations.likelihoods import penalised
from unveil.obfuscations.numerics import as_factor, energy, wide
from unveil.obfuscations.wire import recoded


@dataclass(frozen=True, kw_only=True)
class Sign:
    """Send the sign of each entry, alone or times the mean magnitude of the tensor's entries, of those sent.

    Wire cost: 1 bit a value (log2 3 where exact zeros occur, which stay zero), and 32 bits for each scale.

    Args:
        scale: Send each tensor's mean magnitude too.

    Reference:
        Bernstein et al., signSGD: Compressed Optimisation for Non-Convex Problems, ICML 2018;
        Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019 (the scale);
        Basu et al., Qsparse-local-SGD, NeurIPS 2019 (the scale of the values that top-k sent).
    """

    name: ClassVar[str] = "sign"
    family: ClassVar[Family] = "quantise"
    is_deterministic: ClassVar[bool] = True
    scale: bool = False

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Keep the signs; see `Obfuscation`."""

        def signs(rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups entries"]:
            return rows.sign() * wide(rows).abs().mean() if self.scale else rows.sign()

        masks = update.masks()
        zeros = any(bool((packed(t, masks.get(name)) == 0).any()) for name, t in update.tensors.items())
        return recoded(
            update,
            each_group(update.tensors, "tensor", signs, masks=masks),
            bits_per_value=math.log2(3) if zeros else 1,
            side_bits=32 * count_groups(update.tensors, "tensor", masks=masks) if self.scale else 0,
            is_function=True,
        )

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """A soft margin on each sign, in units of the candidate's own size; with the scale, that too must agree."""
        signs = penalised(received, dict.fromkeys(received.tensors, margin), sent_only=sent_only)
        judged = received.masks() if sent_only else {}
        sizes = {name: float(wide(y).abs().sum()) for name, y in received.tensors.items()}

        def misfit(candidate: Candidate) -> Float[Tensor, ""]:
            total = signs(in_own_size(candidate))
            if self.scale:
                for name, y in received.tensors.items():
                    if sizes[name] > 0:
                        masks = (judged[name],) if name in judged else ()
                        share = partial(_share, size=sizes[name])
                        mean = entrywise(share, candidate[name], y, *masks)
                        total = total + (mean - 1).square() / len(sizes)
            return total

        return misfit

    @property
    def sends_magnitude(self) -> bool:
        """With the scale; see `Signs`."""
        return self.scale

    @property
    def scale_unknown(self) -> bool:
        """Signs have no length, and their common size is not that of the entries; see `MayRescale`."""
        return True

    __str__ = spec_of


def in_own_size(candidate: Candidate, *, sigma: float = 0.0, relative: float = 0.0) -> Candidate:
    """The candidate in units of each tensor's root mean square: signs say nothing of a length.

    A zero candidate stays zero, and so does not look like a good one.

    Args:
        candidate: What comes into the stage.
        sigma: Standard deviation of noise that comes with it, in its units. It is added to the size squared.
        relative: The same in units of its root mean square.
    """
    mean = {n: energy(v) / max(v.shape.numel(), 1) for n, v in candidate.items()}
    own = {n: (square * (1 + relative**2) + sigma**2).clamp_min(1e-60).rsqrt() for n, square in mean.items()}
    return {name: value * as_factor(own[name], value) for name, value in candidate.items()}


def margin(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Logistic loss of the sign, and the square where an exact zero was received."""
    return torch.where(y == 0, x.square(), F.softplus(-x * y.sign()))


def soft_margin(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Logistic loss where y, from -1 to 1, is what noise leaves of a sign: ``-log(1 + y tanh(x / 2)) + log 2``."""
    return -torch.log1p((y * (x / 2).tanh()).clamp_min(-1 + 1e-6)) + math.log(2)


def _share(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *mask: Bool[Tensor, "*shape"], size: float
) -> Float[Tensor, "*shape"]:
    share = x.abs().double() / size
    return share * mask[0] if mask else share
