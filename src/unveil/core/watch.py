"""Watching an attack while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unveil.core.types import Images


@dataclass(frozen=True)
class Progress:
    """The state of a running attack.

    Args:
        step: Number of the step that was just taken.
        steps: Number of planned steps.
        loss: The attack's loss.
        images: Function that returns the present pictures; they are only decoded if it is called.
    """

    step: int
    steps: int
    loss: float
    images: Callable[[], Images]


Watch = Callable[[Progress], None]
"""Called by an attack after each step."""
