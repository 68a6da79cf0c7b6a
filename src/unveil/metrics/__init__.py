"""Measures of how much of an image came back: one value an image, never pooled over a batch."""

from collections.abc import Mapping

from unveil.core.types import Metric, MetricFacts
from unveil.metrics.identity import FOUND_FIRST, FOUND_IN_FIVE, RANK
from unveil.metrics.perceptual import LPIPS
from unveil.metrics.pixel import CORRELATION, PSNR, SSIM, SSIM_GLOBAL
from unveil.metrics.semantic import FEATURES, JACCARD, SAME_TOP1, SAME_TOP5, TRUE_CLASS

CATALOGUE: Mapping[str, Metric] = {metric.name: metric for metric in (PSNR, SSIM, SSIM_GLOBAL, CORRELATION)}
"""Those that need nothing but the pictures, and are always taken."""

FACTS: Mapping[str, MetricFacts] = {
    facts.name: facts
    for facts in (
        *CATALOGUE.values(),
        *(LPIPS, JACCARD, SAME_TOP1, SAME_TOP5, FEATURES, TRUE_CLASS),
        *(RANK, FOUND_FIRST, FOUND_IN_FIVE),
    )
}
"""What a reader must know of every metric here, in the order of reports."""

__all__ = ["CATALOGUE", "CORRELATION", "FACTS", "PSNR", "SSIM", "SSIM_GLOBAL", "facts_of"]


def facts_of(name: str) -> MetricFacts:
    """What is known of a metric by its key in results; of one from elsewhere, that it is from elsewhere."""
    known = FACTS.get(name)
    return known or MetricFacts(
        name=name, leak="high", description="not one of unveil's own; its direction is taken for high"
    )
