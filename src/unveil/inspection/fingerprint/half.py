"""Half precision: every value that arrived is one that sixteen bits hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.received import Received

KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}  # bfloat16's values are among those of float16, in its range
FEW = 3  # different values that must be seen; one value of float32 is one of float16 with a chance of 2^-13
SHARP = 8.0  # only values whose step in half precision is this many times larger than their rounding say anything
SAMPLE = 1 << 16  # values


@dataclass(frozen=True, kw_only=True)
class Half:
    """Half precision that was found.

    Args:
        finding: The stage.
        relative: How far it moves a value at most, relative to it.
        absolute: The same for the smallest values, whose steps are even.
    """

    finding: Finding
    relative: float
    absolute: float


def half_precision(received: Received) -> Half | None:
    """Find the sixteen-bit type that holds every value, or None."""
    parts = [(received.nonzero(name), name) for name in received.by_size]
    stride = max(1, sum(len(part) for part, _ in parts) // SAMPLE)
    values = torch.cat([part[::stride] for part, _ in parts])
    moved = torch.cat([received.rounding(name)[::stride] for _, name in parts])
    for name, dtype in KINDS.items():
        info = torch.finfo(dtype)
        relative, absolute = info.eps / 2, info.smallest_normal * info.eps / 2
        sharp = (values.abs() * relative).clamp_min(absolute) > SHARP * moved
        tested, rounding = values[sharp], moved[sharp]
        different = len(torch.unique(tested.abs()))
        held = tested.float().to(dtype).double()
        fits = (held - tested).abs() <= 1.02 * rounding + 2.0**-150
        # Powers of two, such as signs, are values of every type.
        if different >= FEW and bool(fits.all()) and bool((torch.frexp(tested)[0].abs() != 0.5).any()):
            bits = 13 if dtype == torch.float16 else 16
            return Half(
                finding=Finding(
                    spec=name,
                    confidence=1 - 2.0 ** (-bits * min(different, 3)),
                    evidence=f"all {len(tested):,} values looked at, {different:,} of them different, are values of "
                    f"{name}; by chance one in {2**bits:,} would be",
                ),
                relative=relative,
                absolute=float(absolute),
            )
    return None
