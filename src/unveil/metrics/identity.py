"""Re-identification: whether a person with a gallery of pictures would find the original by its reconstruction.

The gallery has N decoys and the original; its pictures are ranked by their distance from the reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.metric import Metric, MetricFacts, Scoring
from unveil.core.types import Images
from unveil.metrics.caching import remembered

Embed = Callable[[Images], Float[Tensor, "n f"]]
"""(pictures) -> one point for each; similar pictures have near points."""

RANK = MetricFacts(
    name="reid_rank", title="Rank in gallery", digits=1, leak="low", description="place of the original, 1 is first"
)
FOUND_FIRST = MetricFacts(
    name="reid_top1", title="Found first", leak="high", description="share found first among decoys", is_rate=True
)
FOUND_IN_FIVE = MetricFacts(
    name="reid_top5",
    title="Found in five",
    leak="high",
    description="share found among the first five",
    is_rate=True,
)

SAME = 0.5 / 255
"""Two pictures count as the same if their mean absolute difference is less than this, in the unit of [0, 1]."""


def reidentification(decoys: Images, embed: Embed) -> Mapping[str, Metric]:
    """Return three metrics by name: `reid_rank`, the rank of the original from 1, and `reid_top1` and `reid_top5`.

    `reid_top1` is 1 if the original has rank 1, else 0; `reid_top5` is 1 if its rank is at most 5. The gallery of each
    reconstruction is the decoys and its own original. A random choice has the mean rank (N + 2) / 2, and rank 1 with
    probability 1 / (N + 1). Pictures at equal distance share their mean rank, so a flat picture has a middle rank.

    Args:
        decoys: N other pictures of the same source, of the batch's size.
        embed: Function from pictures to points: `pixels`, or the features of LPIPS or of a classifier.

    Raises:
        UsageError: There are no decoys.
    """
    if len(decoys) == 0:
        raise UsageError("re-identification: expected at least one decoy, got none; 200 are usual")
    points, embed = embed(decoys), remembered(embed)
    # Three metrics score each reconstruction, and several reconstructions have the same originals.
    checked = remembered(lambda originals: _check(originals, decoys))
    to_decoys = remembered(lambda rebuilt: torch.cdist(embed(rebuilt)[None], points[None])[0].square())

    def rank(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
        checked(originals)
        near = (embed(originals) - embed(rebuilt)).square().sum(1, keepdim=True)
        far = to_decoys(rebuilt)
        # Distances that differ by rounding only count as equal.
        slack = 1e-9 * (near + far)
        closer, equal = far < near - slack, (far - near).abs() <= slack
        return 1 + closer.sum(1).double() + equal.sum(1).double() / 2

    def within(k: int) -> Scoring:
        return lambda originals, rebuilt: (rank(originals, rebuilt) <= k).double()

    return {
        metric.name: metric
        for metric in (
            RANK.scored(rank),
            FOUND_FIRST.scored(within(1)),
            FOUND_IN_FIVE.scored(within(5)),
        )
    }


def pixels(images: Images) -> Float[Tensor, "n f"]:
    """Return each picture's pixels with mean 0 and L2 norm 1; the distance is smaller the higher the correlation is."""
    flat = images.detach().cpu().double().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    length: Tensor = flat.norm(dim=1, keepdim=True)
    return flat / length.clamp_min(1e-12)


def _check(originals: Images, decoys: Float[Tensor, "m _ _ _"]) -> None:
    """Raise a `UsageError` unless the decoys have the originals' size and none of them is an original."""
    if originals.shape[1:] != decoys.shape[1:]:
        raise UsageError(
            f"re-identification: expected decoys of {tuple(originals.shape[1:])}, the batch's size, "
            f"got {tuple(decoys.shape[1:])}; resize them"
        )
    entries = decoys[0].numel()
    least, nearest = (torch.cdist(originals.to(decoys).flatten(1), decoys.flatten(1), p=1) / entries).min(1)
    if float(least.min()) < SAME:
        i = int(least.argmin())
        raise UsageError(
            f"re-identification: decoy {int(nearest[i])} is picture {i} of the batch, which would be in the "
            "gallery twice; take it out of the decoys"
        )
