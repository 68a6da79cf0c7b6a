"""Watching an attack while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """A look at a running attack. `images` is a function so that nobody pays for a decoding that nobody wants."""

    step: int
    steps: int
    loss: float
    images: Callable[[], Any]


Watch = Callable[[Progress], None]
