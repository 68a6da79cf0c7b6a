"""Measures of how much of an image came back: one value an image, never pooled over a batch."""

from collections.abc import Mapping

from unveil.core.types import Metric
from unveil.metrics.pixel import CORRELATION, PSNR, SSIM, SSIM_GLOBAL

CATALOGUE: Mapping[str, Metric] = {metric.name: metric for metric in (PSNR, SSIM, SSIM_GLOBAL, CORRELATION)}

__all__ = ["CATALOGUE", "CORRELATION", "PSNR", "SSIM", "SSIM_GLOBAL"]
