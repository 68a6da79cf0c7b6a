"""Columns of the last layer that were not sent although their features were in use, as Soteria prunes them."""

from __future__ import annotations

import math

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.received import Received

FEWEST = 4  # columns
SOLID = 0.8  # of the entries in the other columns: with fewer, entries and not columns were left out


def pruned_columns(received: Received) -> Finding | None:
    """Find Soteria in front of the last Linear layer, or None.

    Feature j of the last layer has a gradient in column j of its weight, and through row j of the weight before it. A
    feature that is zero for every example has neither. A column that is empty while the row before it is not was
    pruned. Only where the layer before has a row for each feature can this be seen.
    """
    names = list(received.values)
    linear = [n for n in names if received.values[n].dim() == 2]
    if not linear:
        return None
    name = linear[-1]
    before = [n for n in names[: names.index(name)] if received.values[n].dim() >= 2]
    features = received.values[name].shape[1]
    if not before or received.values[before[-1]].shape[0] != features:
        return None
    columns = received.live[name].any(0)
    filled = float(received.live[name][:, columns].double().mean()) if bool(columns.any()) else 1.0
    used = received.live[before[-1]].flatten(1).any(1)
    pruned = int((used & ~columns).sum())
    if pruned < FEWEST or filled < SOLID or bool((columns & ~used).sum() > pruned / 4):
        return None
    rate = float(f"{pruned / features:.2g}")
    if math.ceil(rate * features) != pruned:
        rate = pruned / features
    return Finding(
        spec=f"soteria:pruning_rate={rate:.4g}",
        confidence=0.9,
        equals=() if received.counts[name] else ("a larger rate: nothing is left of the layer",),
        evidence=f"{pruned} of {features} columns of {name} are empty, although {before[-1]} shows their features in "
        "use",
    )
