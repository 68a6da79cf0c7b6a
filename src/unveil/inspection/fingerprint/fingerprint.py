"""From a received update alone to the obfuscation that made it: the stages are peeled off, the last one first."""

from __future__ import annotations

from unveil.core.types import Tensors
from unveil.core.update import Update
from unveil.inspection.fingerprint.buckets import in_buckets
from unveil.inspection.fingerprint.clip import clipped
from unveil.inspection.fingerprint.columns import pruned_columns
from unveil.inspection.fingerprint.findings import Finding, Fingerprint
from unveil.inspection.fingerprint.half import half_precision
from unveil.inspection.fingerprint.levels import levels_of, quantised
from unveil.inspection.fingerprint.noise import noisy
from unveil.inspection.fingerprint.rank import low_rank
from unveil.inspection.fingerprint.received import Received
from unveil.inspection.fingerprint.sparsity import sparsified
from unveil.inspection.fingerprint.tables import from_table

EMPTY = "Every value is zero: nothing arrived, so nothing can be told."
ROUNDED = (
    "The update is a difference of recorded weights, so each entry carries the weights' own rounding; noise, levels "
    "and half precision finer than that cannot be seen."
)


def fingerprint(update: Update, *, before: Tensors | None = None) -> Fingerprint:
    """Tell which obfuscation made an update, from its tensors alone.

    Args:
        update: The received update; only its tensors are read.
        before: The weights before the round, where the update is a difference of recorded weights; None otherwise.

    Returns:
        The stages that were found, each with its confidence, its evidence and what cannot be told from it.

    Raises:
        UsageError: The update holds no values, or some that are not finite.
    """
    received = Received.of(update, before)
    notes = (ROUNDED,) if before is not None else ()
    if not received.by_size:
        return Fingerprint(notes=(*notes, EMPTY))
    half = half_precision(received)
    if half is not None:
        received = received.behind(relative=half.relative, absolute=half.absolute)
    found = _stages(received)
    clip = clipped(received)
    if clip is not None and not any(f.spec.startswith(("gaussian", "laplace", "sign")) for f in found):
        found.append(clip)
    if half is not None and not any(f.spec == "sign" for f in found):
        found.append(half.finding)
    return Fingerprint(findings=tuple(found), notes=notes)


def _stages(received: Received) -> list[Finding]:
    """What stands before half precision and clipping."""
    thin = low_rank(received)
    if thin is not None:
        return [thin]
    grids = levels_of(received)
    table = None if grids else from_table(received)
    buckets = None if grids or table is not None else in_buckets(received)
    sparse = sparsified(received, levels=bool(grids or table or buckets), buckets=buckets is not None)
    rounded = table or buckets
    if grids:
        rounded = quantised(received, grids, sparse=sparse is not None)
    found = [stage for stage in (sparse, rounded) if stage is not None]
    if not found:
        last = noisy(received) or pruned_columns(received)
        return [last] if last is not None else []
    return found
