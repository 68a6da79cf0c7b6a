"""How a rehearsed update of the last layer arrives: through the known obfuscation, or through an imitation of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.labels.rows import ClassRows
from unveil.core.binding import for_receiver
from unveil.core.protocols import Obfuscation
from unveil.core.update import Update

FEW = 0.25  # an obfuscation with fewer distinct values than this per received entry rounds, or sends only some entries


@dataclass(frozen=True, eq=False)
class Arrival:
    """Turns the client's rows of the last layer into what the attacker receives of them.

    Args:
        rows: The last layer.
        received: The received update, with the tensors of the last layer only.
        obfuscation: The obfuscation, or None if the attacker does not know it.
        generator: The obfuscation's randomness.
    """

    rows: ClassRows
    received: Update
    obfuscation: Obfuscation | None
    generator: Generator

    def __call__(self, rows: Float[Tensor, "out entries"]) -> Update:
        """Return the update that the attacker would receive if the client sent these rows.

        Args:
            rows: The rows that the client sends, one line for each class score.
        """
        tensors = self.rows.tensors(rows)
        if self.obfuscation is not None:
            return for_receiver(self.obfuscation, self.received)(Update(tensors), generator=self.generator)
        return Update({name: self._imitated(name, t) for name, t in tensors.items()}, self.received.coding)

    def _imitated(self, name: str, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Imitate an unknown obfuscation: change a tensor as the obfuscation seems to have changed the received one.

        If the received tensor has few distinct values, as after signs, levels and top-k, the smallest entry gets the
        smallest received value, the next entry the next value, and so on. Otherwise all entries get noise that is as
        strong as the noise in the received tensor.
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
        """Return the share of a tensor's mean square that is noise, from 0 to 1.

        Without noise the rows sum to zero over the classes, so the square of that sum measures the noise.
        """
        shares = {}
        for key, y in self.rows.split(self.rows.of(self.received.tensors).double()).items():
            shares[key] = float(y.sum(0).square().mean() / y.square().sum(0).mean().clamp_min(1e-300))
        # The widest tensor gives one sum per column and so the best mean. A bias gives one sum, which may be small by
        # chance.
        widest = max(shares, key=lambda key: self.rows.shapes[key].numel())
        return min(max(shares[name], shares[widest]), 1.0)

    def noise(self, clean: Sequence[Float[Tensor, "out entries"]], arrived: Sequence[Update]) -> Mapping[str, float]:
        """Measure the mean squared error that the obfuscation makes in a sent entry, for each tensor.

        Args:
            clean: The rows that the client sent, for each rehearsal.
            arrived: The update that the attacker received, for each rehearsal.

        Returns:
            Name of each tensor -> its mean squared error, in the squared unit of the update.
        """
        mean_squares = {}
        for name in self.rows.shapes:
            errors, size = 0.0, 0
            for rows, update in zip(clean, arrived, strict=True):
                x, y = (self.rows.split(r.double())[name] for r in (rows, self.rows.of(update.tensors)))
                if update.coding.sparse:
                    x, y = x[y != 0], y[y != 0]
                gain = float((x * y).sum() / x.square().sum().clamp_min(1e-300))
                errors += float((y - gain * x).square().sum())
                size += y.numel()
            mean_squares[name] = errors / max(size, 1)
        return mean_squares
