"""The gain of an update whose length says nothing, estimated while the pictures of a search get better."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unveil.attacks.separation.gain.consistency import consistent_gain
from unveil.attacks.separation.gain.levels import Levelled
from unveil.attacks.separation.gain.likelihood import Scale
from unveil.attacks.separation.stages import Search
from unveil.core.factored import Candidate
from unveil.core.types import Batch, Images

WIDELY = (1.0, 0.4, 0.1)  # decades to each side in which the gain is looked for when the first pictures are decoded
NEARBY = (0.1,)  # and between the stages
EXACT = 0.999  # cosine that a channel leaves between what is sent and received, below which it is noise


def estimate(search: Search, levelled: Levelled, features: Tensor, pictures: Callable[[float], Images]) -> None:
    """Give the search's separator a gain, and the search the pictures that go with it.

    Args:
        search: Its separator has the first gain, told without pictures.
        levelled: The update.
        features: Separated at the first gain, one row an image.
        pictures: (gain) -> the pictures that are decoded with it.
    """
    separator = search.separator
    assert separator is not None
    first = separator.gain

    def simulate(images: Images) -> Candidate:
        return search.knowledge.simulate(search.model, Batch(images, search.labels))

    search.scale = Scale(received=levelled, simulate=simulate, first=first)
    settle(search, features)
    if search.scale is not None:
        separator.gain = search.scale.best(pictures, start=first, widths=WIDELY)
        settle(search, features * (first / separator.gain))
    search.pictures = pictures(separator.gain)


def regain(search: Search) -> None:
    """Estimate the gain again by the present pictures, where it is not yet settled."""
    separator, scale, found = search.separator, search.scale, search.pictures
    if separator is None or scale is None:
        return
    before = separator.gain

    def pictures(gain: float) -> Images:
        return (found * (before / gain)).clamp(0, 1)

    separator.gain = scale.best(pictures, start=before, widths=NEARBY)
    with torch.no_grad():
        settle(search, separator.head.features(pictures(separator.gain)))
    search.pictures = pictures(separator.gain)


def settle(search: Search, features: Tensor) -> None:
    """Look for the gain at which the head explains its own gradient; where there is one, it is not estimated again.

    Args:
        search: Its separator is given the gain.
        features: Of the present pictures, or separated at the present gain.
    """
    separator, scale = search.separator, search.scale
    if separator is None or scale is None or scale.received.clear[separator.head.weights[0]] < EXACT:
        return
    gain = separator.gain * separator.once
    found = consistent_gain(separator.head, separator.gradient, search.labels, features, gain)
    if found is not None:
        separator.gain = found / separator.once
        search.scale = None
