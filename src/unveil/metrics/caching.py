"""Several metrics look at the same pictures through one network: it runs once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from unveil.core.types import Images

T = TypeVar("T")


def remembered(look: Callable[[Images], T], keep: int = 4) -> Callable[[Images], T]:
    """The same function, which is not called again for the last few tensors unless they were changed in place."""
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
