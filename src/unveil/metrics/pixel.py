"""Metrics that compare pictures pixel by pixel, without matching or rounding them first."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.metric import Metric
from unveil.core.types import Images

ROUNDING = 1 / (12 * 255**2)
"""Mean squared error of rounding to 8 bits: the variance of an error that is uniform over one grey level."""

WINDOW = 11
"""Side of SSIM's Gaussian window, pixels."""


def psnr(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
    """Return the peak signal-to-noise ratio in dB, ``-10 log10(mse)`` for pictures in [0, 1], at most 58.9 dB.

    The score is capped at ``10 log10(12 * 255^2)``, the PSNR of rounding to 8 bits: the pictures were 8-bit files, so a
    smaller error has no meaning. Without the cap an exact copy would score infinity, and so would every mean with it.

    Args:
        originals: The private pictures.
        rebuilt: Their reconstructions, in the same order.
    """
    error: Tensor = (originals.double() - rebuilt.double()).square().flatten(1).mean(1)
    return -10 * error.clamp(min=ROUNDING).log10()


def ssim(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
    """Return the structural similarity in [-1, 1], with a Gaussian window of 11 x 11, sigma 1.5, averaged over colours.

    Args:
        originals: The private pictures, at least 11 x 11.
        rebuilt: Their reconstructions, in the same order.

    Raises:
        UsageError: The pictures are smaller than the window.

    Reference:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, IEEE TIP 2004.
    """
    from skimage.metrics import structural_similarity

    height, width = originals.shape[2:]
    if min(height, width) < WINDOW:
        raise UsageError(
            f"ssim: expected pictures of at least {WINDOW} x {WINDOW}, got {height} x {width}; "
            "use larger pictures or leave ssim out of the metrics"
        )
    return torch.tensor(
        [
            structural_similarity(  # type: ignore[no-untyped-call]
                original,
                guess,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1,
                channel_axis=0,
            )
            for original, guess in zip(_numpy(originals), _numpy(rebuilt), strict=True)
        ],
        dtype=torch.float64,
    )


def ssim_global(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
    """Return the structural similarity with one window over the whole picture, for comparison with ROG's figures.

    It is computed as ROG's authors do, on 8-bit YCrCb with the weights 0.8, 0.1 and 0.1; of a grey picture on its luma
    alone. It is higher than `ssim` for most pictures.

    Args:
        originals: The private pictures, of one or three channels.
        rebuilt: Their reconstructions, in the same order.

    Raises:
        UsageError: The pictures have another number of channels.

    Reference:
        Yue et al., Gradient Obfuscation Gives a False Sense of Security in Federated Learning, USENIX
        Security 2023.
    """
    x, y = _ycrcb(originals).flatten(2), _ycrcb(rebuilt).flatten(2)
    weights = x.new_tensor([0.8, 0.1, 0.1] if x.shape[1] == 3 else [1.0])
    mean_x, mean_y = x.mean(2), y.mean(2)
    spread_x, spread_y = x.var(2, correction=0), y.var(2, correction=0)
    covariance = (x * y).mean(2) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (spread_x + spread_y + c2)
    return (luminance * structure) @ weights


def correlation(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
    """Return the Pearson correlation of the pixels, in [-1, 1], which does not depend on brightness and contrast.

    A rebuilt picture that is only too dark has a low PSNR, although an image editor corrects it. If the original or the
    rebuilt picture is flat, the score is 0.

    Args:
        originals: The private pictures.
        rebuilt: Their reconstructions, in the same order.
    """
    x, y = originals.double().flatten(1), rebuilt.double().flatten(1)
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    scale = (x.square().sum(1) * y.square().sum(1)).sqrt()
    flat = scale < x.shape[1] * ROUNDING  # less contrast than rounding to 8 bits causes
    return torch.where(flat, 0.0, (x * y).sum(1) / scale.where(~flat, 1.0))


def _numpy(images: Images) -> list[object]:
    return list(images.detach().cpu().double().numpy())


def _ycrcb(images: Images) -> Float[Tensor, "n k h w"]:
    """Return 8-bit YCrCb by full-range BT.601, with the chroma of the rounded luma, as imaging libraries do."""
    grey_levels = (images.detach().double() * 255).round()
    if images.shape[1] == 1:
        return grey_levels
    if images.shape[1] != 3:
        raise UsageError(
            f"ssim_global: expected pictures of 1 or 3 channels, got {images.shape[1]}; leave it out of the metrics"
        )
    red, green, blue = grey_levels.unbind(1)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue).round()
    return torch.stack([luma, 128 + (0.713 * (red - luma)).round(), 128 + (0.564 * (blue - luma)).round()], 1)


PSNR = Metric(
    name="psnr",
    title="PSNR",
    unit="dB",
    digits=1,
    leak="high",
    description="pixel error on a logarithmic scale",
    score=psnr,
)
SSIM = Metric(name="ssim", title="SSIM", leak="high", description="likeness of structure in a small window", score=ssim)
SSIM_GLOBAL = Metric(
    name="ssim_global",
    title="SSIM, one window",
    leak="high",
    description="the same in one window, as some papers report it",
    score=ssim_global,
)
CORRELATION = Metric(
    name="correlation",
    title="Correlation",
    leak="high",
    description="of pixels, whatever the brightness and contrast",
    score=correlation,
)
