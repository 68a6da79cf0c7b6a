"""A cache of a network's output, so that several metrics of the same pictures run the network once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from unveil.core.types import Images

T = TypeVar("T")


def remembered(look: Callable[[Images], T], keep: int = 4) -> Callable[[Images], T]:
    """Return a function that caches the results of `look` for the last `keep` tensors.

    A result is computed again if its tensor was changed in place.
    """
    kept: list[tuple[Images, int, T]] = []

    def again(images: Images) -> T:
        for tensor, version, seen in kept:
            if tensor is images and version == images._version:
                return seen
        seen = look(images)
        kept.append((images, images._version, seen))
        del kept[:-keep]
        return seen

    return again
