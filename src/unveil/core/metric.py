"""A metric: a score of each picture of a batch, and what a reader must know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from unveil.core.types import Images

Scoring = Callable[[Images, Images], Float[Tensor, " n"]]
"""(originals, their reconstructions in the same order) -> one value a picture; NaN where a picture has none."""


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """What a reader must know of a metric.

    Args:
        name: Its key in results.
        title: Its name in tables, without the unit; empty for the key.
        unit: Its unit, empty for a pure number.
        digits: Digits after the point in tables, at least 0.
        leak: Whether a high or a low value means leakage.
        description: What it says, half a sentence for captions.
        is_rate: Every picture has 0 or 1, whose mean is a share and has a Wilson interval.
    """

    name: str
    title: str = ""
    unit: str = ""
    digits: int = 2
    leak: Literal["high", "low"]
    description: str = ""
    is_rate: bool = False

    @property
    def heading(self) -> str:
        """Title and unit, as at the head of a column."""
        title = self.title or self.name
        return f"{title}, {self.unit}" if self.unit else title

    @property
    def arrow(self) -> str:
        """Where leakage lies."""
        return "↑" if self.leak == "high" else "↓"

    def scored(self, score: Scoring) -> Metric:
        """The metric of these facts."""
        return Metric(**vars(self), score=score)


@dataclass(frozen=True, kw_only=True)
class Metric(MetricFacts):
    """A score of how much of an image came back.

    Args:
        score: Scores reconstructions; the other arguments are those of `MetricFacts`.
    """

    score: Scoring

    @property
    def facts(self) -> MetricFacts:
        """All but the function, as results keep it."""
        return MetricFacts(**{item.name: getattr(self, item.name) for item in fields(MetricFacts)})
