"""How many times longer an update is than its manifest says, from what the last layer says.

For the right length ``k`` the slopes ``s = k (p - counts / n)`` give whole counts of at least zero whose sum is n. So
each ratio of the update's length to that of the manifest, negative ones too, has a cost: how far ``n (p - s / k)`` is
from the nearest counts, in standard deviations of the mean prediction p. A ratio that is too small makes counts
negative; one that is too large, or of the wrong sign, puts them between whole numbers, as long as n is not much larger
than the number of classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.attacks.labels.counts import cheapest_counts
from unveil.inspection.doctor.head import HeadEvidence

LARGEST = 1e4
"""Ratios from 1 / `LARGEST` to `LARGEST` are tried, both ways round."""
PER_DECADE = 48
"""Ratios that are tried for each factor of ten."""
TAIL = 6.0
"""Degrees of freedom of Student's t for the errors; the client's pictures may be of another kind than public ones."""
MOST_PICTURES = 256
"""With more pictures than this whole counts are so close that every length gives them."""
MOST_DRIFT = 0.3
"""Most of a prediction that local steps may have moved: beyond, the mean of first and last says too little."""
MOST_MOVED = 0.5
"""Longest change of a weight over several steps, in units of the weight: beyond, the features are others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gains:
    """The cost of each ratio.

    Args:
        ratios: The update's length divided by that of the manifest; negative for the opposite sign.
        costs: Negative log-likelihood of each, in nats, above the smallest.
        counts: Likeliest counts of the classes at each ratio.
    """

    ratios: Float[Tensor, " ratios"]
    costs: Float[Tensor, " ratios"]
    counts: Int[Tensor, "ratios classes"]

    def cost(self, low: float, high: float) -> float:
        """The smallest cost of a ratio between two."""
        inside = (self.ratios >= low) & (self.ratios <= high)
        return float(self.costs[inside].min()) if bool(inside.any()) else math.inf

    @property
    def best(self) -> float:
        """The ratio of the smallest cost."""
        return float(self.ratios[self.costs.argmin()])

    @property
    def best_counts(self) -> Int[Tensor, " classes"]:
        """The counts at the ratio of the smallest cost."""
        return self.counts[self.costs.argmin()]

    def interval(self, margin: float, *, sign: int) -> tuple[float, float] | None:
        """The smallest and largest ratio of a sign within a margin of the smallest cost; None if there is none."""
        inside = self.ratios[(self.costs <= margin) & (self.ratios.sign() == sign)]
        return (float(inside.min()), float(inside.max())) if len(inside) else None


def gains(evidence: HeadEvidence, length: float) -> Gains:
    """Compute the cost of every ratio.

    Args:
        evidence: What the last layer says.
        length: Length of the update by its manifest; see `Examined.length`.
    """
    decades = 2 * math.log10(LARGEST)
    sizes = torch.logspace(-math.log10(LARGEST), math.log10(LARGEST), int(decades * PER_DECADE) + 1).double()
    ratios = torch.cat([sizes, -sizes])
    n = evidence.pictures
    shares = evidence.chances - evidence.slopes / (length * ratios[:, None])
    k = torch.arange(n + 1, dtype=torch.double)
    usual = max(1.0, n / len(evidence.chances))
    arrived = evidence.variances.isfinite()
    of_features = torch.where(arrived, evidence.variances, 0.0)[:, None] * k.clamp_min(0.5) / usual
    variance = (of_features + evidence.chance_variances[:, None])[None]
    squares = (shares[..., None] - k / n).square() / variance
    costs = (TAIL + 1) / 2 * torch.log1p(squares / TAIL) + variance.log() / 2
    costs = costs * arrived[:, None]
    counts, totals = cheapest_counts(costs)
    return Gains(ratios=ratios, costs=totals - totals.min(), counts=counts)
