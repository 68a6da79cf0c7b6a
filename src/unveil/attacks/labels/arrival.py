"""How a rehearsed update of the last layer would arrive: through the obfuscation, or one that is like it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.labels.rows import ClassRows
from unveil.core.protocols import Obfuscation
from unveil.core.types import Update

FEW = 0.25  # distinct values a received entry below which an obfuscation rounds, or sends some entries only


@dataclass(frozen=True, eq=False)
class Arrival:
    """The way of an update's last layer to the attacker.

    Args:
        rows: The last layer.
        received: What arrived, its tensors alone.
        obfuscation: The obfuscation, or None if it is not known.
        generator: The obfuscation's randomness.
    """

    rows: ClassRows
    received: Update
    obfuscation: Obfuscation | None
    generator: Generator

    def __call__(self, rows: Float[Tensor, "outputs entries"]) -> Update:
        """What would arrive of these rows."""
        tensors = self.rows.tensors(rows)
        if self.obfuscation is not None:
            return self.obfuscation(Update(tensors), generator=self.generator)
        return Update({name: self._imitated(name, t) for name, t in tensors.items()}, self.received.coding)

    def _imitated(self, name: str, tensor: Tensor) -> Tensor:
        """What an obfuscation that is not known may make of a tensor, by what it made of the received one.

        Where few values arrived, as after signs, levels and top-k, the tensor's entries get the received values in the
        order of their size. Else they get noise of the received strength.
        """
        received = self.received.tensors[name].to(tensor)
        if len(torch.unique(received)) < FEW * received.numel():
            order = tensor.flatten().argsort()
            values = received.flatten().sort().values
            ranked = torch.empty_like(values).scatter_(0, order, values)
            return ranked.reshape(tensor.shape)
        scale = tensor.square().mean().sqrt()
        noise: Tensor = torch.randn(tensor.shape, generator=self.generator).to(tensor)
        noise = scale * math.sqrt(self._share_of_noise(name)) * noise
        return tensor + noise

    def _share_of_noise(self, name: str) -> float:
        """Share of a tensor's mean square that is noise: without any, the rows sum to zero over the classes."""
        shares = {}
        for key, y in self.rows.split(self.rows.of(self.received.tensors).double()).items():
            shares[key] = float(y.sum(0).square().mean() / y.square().sum(0).mean().clamp_min(1e-300))
        # The widest tensor has the most sums; that of a bias is a single one, and small by chance sometimes.
        widest = max(shares, key=lambda key: self.rows.shapes[key].numel())
        return min(max(shares[name], shares[widest]), 1.0)

    def noise(self, clean: Sequence[Tensor], arrived: Sequence[Update]) -> Mapping[str, float]:
        """For each tensor, the mean square of the obfuscation's error in an entry that was sent, over rehearsals.

        Args:
            clean: The rows as they were sent.
            arrived: What became of them.
        """
        found = {}
        for name in self.rows.shapes:
            errors, size = 0.0, 0
            for rows, update in zip(clean, arrived, strict=True):
                x, y = (self.rows.split(r.double())[name] for r in (rows, self.rows.of(update.tensors)))
                if update.coding.sparse:
                    x, y = x[y != 0], y[y != 0]
                gain = float((x * y).sum() / x.square().sum().clamp_min(1e-300))
                errors += float((y - gain * x).square().sum())
                size += y.numel()
            found[name] = errors / max(size, 1)
        return found
