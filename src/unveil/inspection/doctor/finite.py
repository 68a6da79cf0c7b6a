"""Values that are no finite numbers."""

from __future__ import annotations

import torch

from unveil.core.files import quoted
from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.faults import Fault, Findings

NON_FINITE = "non-finite values"


def finite(examined: Examined) -> Findings:
    """Look for values that are no finite number, such as differences that overflow."""
    bad = {
        name: int(torch.count_nonzero(~torch.isfinite(tensor)))
        for name, tensor in examined.changes.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    }
    if bad:
        first = next(iter(bad))
        yield Fault(
            name=NON_FINITE,
            severity="error",
            evidence=f"{sum(bad.values())} changes in {len(bad)} tensors are NaN or infinite, the first in "
            f"{quoted(first, 60)}",
            fix="check the client's learning rate and loss for overflow, and record a round that went well",
        )
