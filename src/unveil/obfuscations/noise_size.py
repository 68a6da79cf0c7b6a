"""How large noise is: its standard deviation, as a number or told by the entries that it is added to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unveil.core.bounds import positive
from unveil.core.errors import UsageError
from unveil.core.update import Update
from unveil.obfuscations.groups import packed
from unveil.obfuscations.numerics import rms, spread, wide

MANY = 30  # values whose spread is told to 13 % (one standard error)
LOUDEST = 200  # dB, either way: noise of 1e-10 to 1e10 times the entries


@dataclass(frozen=True, kw_only=True)
class NoiseSize:
    """One of three ways to say how large noise is.

    Args:
        who: Name of the obfuscation for messages.
        sigma: Standard deviation of the noise; greater than 0.
        relative: The same as a multiple of the standard deviation of each tensor's own entries; greater than 0.
        snr_db: Signal-to-noise ratio in dB: ten times the common logarithm of the mean square of each tensor's own
            entries over the variance of the noise; from -200 to 200.
    """

    who: str
    sigma: float | None
    relative: float | None
    snr_db: float | None

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.sigma, self.relative, self.snr_db)) != 1:
            raise UsageError(
                f"{self.who}: expected one of sigma, relative and snr_db; give exactly one, such as relative=1"
            )
        if self.snr_db is None:
            hint = "use the obfuscation `none` for no noise"
            positive(self.who, "noise", self.sigma if self.sigma is not None else self.relative or 0.0, hint)
        elif not abs(self.snr_db) <= LOUDEST:
            raise UsageError(
                f"{self.who}: expected {-LOUDEST} <= snr_db <= {LOUDEST}, got {self.snr_db:g}; give decibels, such as "
                "snr_db=20, or use the obfuscation `none` for no noise"
            )

    @property
    def ratio(self) -> float | None:
        """Standard deviation of the noise over the size of a tensor's own entries; None where `sigma` says it."""
        return self.relative if self.snr_db is None else math.pow(10, -self.snr_db / 20)

    def added_to(self, values: Float[Tensor, "groups entries"]) -> Float[Tensor, ""] | float:
        """Standard deviation of the noise that these values get."""
        if self.ratio is None:
            return self.sigma or 0.0
        if self.snr_db is None:
            return self.ratio * spread(values)
        return self.ratio * rms(values)

    def told_from(self, sizes: Mapping[str, float]) -> dict[str, float]:
        """Standard deviation of the noise by tensor, from the size of entry and noise together.

        The squares of both add, ``s^2 = own^2 (1 + ratio^2)``; behind `snr_db` the noise is therefore
        ``s^2 / (1 + 10^(snr_db / 10))``.

        Args:
            sizes: For each tensor the standard deviation of what was received; its root mean square for `snr_db`.
        """
        if self.ratio is None:
            return dict.fromkeys(sizes, self.sigma or 0.0)
        share = self.ratio / math.hypot(1, self.ratio)
        return {name: share * size for name, size in sizes.items()}

    def in_received(self, received: Update) -> dict[str, float]:
        """Standard deviation of the noise by tensor, as the attacker estimates it."""
        if self.ratio is None:
            return dict.fromkeys(received.tensors, self.sigma or 0.0)
        values = {name: packed(y, received.sent(name)) for name, y in received.tensors.items()}
        return self.told_from({name: self._size(row) for name, row in values.items()})

    def _size(self, row: Float[Tensor, " entries"]) -> float:
        # The spread of a few values may be next to nothing by chance; their size about zero is not.
        return float(spread(row)) if self.snr_db is None and len(row) >= MANY else rms(wide(row))
