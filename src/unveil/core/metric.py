"""A metric: a score of each picture of a batch, and what reports say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from unveil.core.types import Images

Scoring = Callable[[Images, Images], Float[Tensor, " n"]]
"""(originals, reconstructions in the same order) -> one value for each picture; NaN if a picture has none."""


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """What reports say of a metric.

    Args:
        name: The metric's key in results.
        title: Its name in tables, without the unit; empty for the key.
        unit: Its unit; empty for a pure number.
        digits: Digits after the decimal point in tables, at least 0.
        leak: Whether a high or a low value means leakage.
        description: What the metric says, half a sentence for captions.
        is_rate: Every picture has the value 0 or 1; reports give the mean as a share with a Wilson interval.
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
        """Title and unit, for the head of a column."""
        title = self.title or self.name
        return f"{title}, {self.unit}" if self.unit else title

    @property
    def arrow(self) -> str:
        """An arrow that points up if a high value means leakage, and down if a low one does."""
        return "↑" if self.leak == "high" else "↓"

    def scored(self, score: Scoring) -> Metric:
        """Return the metric that has these facts and computes this score."""
        return Metric(**vars(self), score=score)


@dataclass(frozen=True, kw_only=True)
class Metric(MetricFacts):
    """A score of how much of each picture was recovered.

    Args:
        score: Function that scores reconstructions; the other arguments are those of `MetricFacts`.
    """

    score: Scoring

    @property
    def facts(self) -> MetricFacts:
        """The facts without the function, as results keep them."""
        return MetricFacts(**{item.name: getattr(self, item.name) for item in fields(MetricFacts)})
