"""How each measure is written: its name for readers, its direction, and what it says in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a reader must know of one metric.

    Args:
        title: Its name in tables.
        digits: Digits after the point.
        says: What it says, for the caption.
        leak: Whether a high or a low value means leakage.
        rate: Whether every picture has 0 or 1, whose mean is a share and has a Wilson interval.
    """

    title: str
    digits: int
    says: str
    leak: Literal["high", "low"] = "high"
    rate: bool = False

    @property
    def arrow(self) -> str:
        """Where leakage lies."""
        return "↑" if self.leak == "high" else "↓"


MEASURES = {
    "psnr": Measure(title="PSNR, dB", digits=1, says="pixel error on a logarithmic scale"),
    "ssim": Measure(title="SSIM", digits=2, says="likeness of structure in a small window"),
    "ssim_global": Measure(title="SSIM, one window", digits=2, says="the same in one window, as some papers report it"),
    "correlation": Measure(title="Correlation", digits=2, says="of pixels, whatever the brightness and contrast"),
    "lpips": Measure(title="LPIPS", digits=3, says="distance as people see it (AlexNet, version 0.1)", leak="low"),
    "semantic_jaccard": Measure(title="Labels shared", digits=2, says="overlap of the classifier's label sets"),
    "same_top1": Measure(title="Same label", digits=2, says="share with the original's first label", rate=True),
    "same_top5": Measure(title="Same, of five", digits=2, says="share with it among the first five", rate=True),
    "feature_similarity": Measure(title="Features", digits=2, says="cosine of what the classifier's last layer sees"),
    "true_class": Measure(title="True class", digits=2, says="share whose true class is among five", rate=True),
    "reid_rank": Measure(title="Rank in gallery", digits=1, says="place of the original, 1 is first", leak="low"),
    "reid_top1": Measure(title="Found first", digits=2, says="share found first among decoys", rate=True),
    "reid_top5": Measure(title="Found in five", digits=2, says="share found among the first five", rate=True),
}
"""In the order of the report; measures of other tools are shown under their own name."""


def measure(name: str) -> Measure:
    """What is known of a measure; of an unknown one that it is called so."""
    return MEASURES.get(name) or Measure(title=name, digits=2, says="not one of unveil's own; its direction is unknown")
