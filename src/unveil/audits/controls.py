"""Controls: what the same attack, at the same price, scores where the update knows nothing of these pictures.

Without them a score means nothing: a reconstruction that merely looks like a photograph is also a little like the
private one. Two more comparisons need no run of their own: the blind guess, which needs no update, and the baseline,
which is the row `none` of every audit.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator

from unveil.attacks.dead_leaves import dead_leaves
from unveil.clients.client import Client
from unveil.core.errors import UsageError, nearest
from unveil.core.types import Batch

ANOTHER, LABELS = "another client", "labels only"
CONTROLS = (ANOTHER, LABELS)
"""`another client`: as many other pictures of the same source. `labels only`: dead leaves under the batch's labels."""


def checked(names: Sequence[str]) -> None:
    """Raise a `UsageError` unless every name is a control's."""
    for name in names:
        if name not in CONTROLS:
            raise UsageError(f"controls: there is no {name!r}; {nearest(name, list(CONTROLS))}")


def control_batch(name: str, client: Client, *, generator: Generator) -> Batch | None:
    """Another batch for the client to train on; None where the client has too few other pictures.

    Args:
        name: One of `CONTROLS`.
        client: The client.
        generator: Randomness of the dead leaves.
    """
    n, device = len(client.batch), client.batch.images.device
    if name == LABELS:
        _, channels, height, width = client.batch.images.shape
        leaves = dead_leaves(n, (channels, height, width), generator=generator)
        return Batch(leaves.to(device, client.batch.images.dtype), client.batch.labels)
    return client.evaluation.others
