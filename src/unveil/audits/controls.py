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
from unveil.core.fingerprints import copies, fingerprints, overlap

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


def chosen(names: Sequence[str], client: Client) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Replace the control of another client where that client holds copies of the client's pictures.

    A picture rebuilt from a copy's update looks like the original, so nothing would count as more than the control.

    Args:
        names: Names of `CONTROLS`.
        client: The client.

    Returns:
        The names of the controls to run, and sentences that say what was replaced, and why.
    """
    others = client.evaluation.others
    if ANOTHER not in names or others is None:
        return tuple(names), ()
    found = len(overlap(fingerprints(others.images), fingerprints(client.batch.images)))
    if not found:
        return tuple(names), ()
    instead = tuple(dict.fromkeys(LABELS if name == ANOTHER else name for name in names))
    return instead, (
        f"The control {ANOTHER!r} was not run: {found} of its {len(others)} pictures are copies of pictures in the "
        f"batch, and its source has too few others. {LABELS!r} was run instead.",
    )


def copies_in_batch(client: Client) -> tuple[str, ...]:
    """Return a sentence for each group of pictures of the batch that are copies of one another."""
    return tuple(
        f"Pictures {formatted([index + 1 for index in group])} of the batch are copies of one another: they count as "
        f"{len(group)} in every mean and test, and are less evidence than {len(group)} pictures that differ."
        for group in copies(client.batch.images)
    )


def formatted(numbers: Sequence[int]) -> str:
    """Return numbers as an enumeration."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last
