"""Controls: the same attack with the same budget on an update of other pictures.

A score means nothing without them: any reconstruction that looks like a photograph resembles the private one a little.
Two more comparisons need no run of their own: the blind guess, which needs no update, and the baseline, which is the
row `none` of every audit.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator

from unveil.attacks.dead_leaves import dead_leaves
from unveil.clients.client import Client
from unveil.core.batch import Batch
from unveil.core.errors import UsageError, nearest

ANOTHER, LABELS = "another client", "labels only"
CONTROLS = (ANOTHER, LABELS)
"""`another client`: other pictures of the same source, as many. `labels only`: dead leaves with the batch's labels."""


def checked(names: Sequence[str]) -> None:
    """Raise a `UsageError` unless every name is in `CONTROLS`."""
    for name in names:
        if name not in CONTROLS:
            raise UsageError(f"controls: there is no {name!r}; {nearest(name, list(CONTROLS))}")


def control_batch(name: str, client: Client, *, generator: Generator) -> Batch | None:
    """The batch that the client trains on for a control.

    Args:
        name: One of `CONTROLS`.
        client: The client.
        generator: Randomness of the dead leaves.

    Returns:
        As many pictures as the client's batch, of the same shape; None where the client has too few other pictures.
    """
    n, device = len(client.batch), client.batch.images.device
    if name == LABELS:
        _, channels, height, width = client.batch.images.shape
        leaves = dead_leaves(n, (channels, height, width), generator=generator)
        return Batch(leaves.to(device, client.batch.images.dtype), client.batch.labels)
    return client.evaluation.others
