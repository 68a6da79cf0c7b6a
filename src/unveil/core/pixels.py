"""Pictures with 8 bits for each value, as files hold them, and the grey of the blind guess."""

from __future__ import annotations

import io

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

COARSE = 6
"""Areas a side of which a blurred picture keeps the mean."""

BLURRED = f"Pictures are blurred: the means of {COARSE} x {COARSE} areas are left. Scores are of the sharp ones."
"""The note of results whose pictures are blurred."""

GREY = 0.5
"""The value of every pixel of the blind guess, the picture of an attacker who has no update."""


def eight_bit(images: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """Round pictures to 8 bits for each value, as a file holds them.

    Args:
        images: Values in [0, 1]; values outside are clamped, and NaN becomes `GREY`.

    Returns:
        Multiples of 1/255 in [0, 1] as float32, detached.
    """
    return to_bytes(images).float() / 255


def blurred(images: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """Return pictures of which nothing is left but the means of `COARSE` x `COARSE` areas, drawn smoothly.

    Args:
        images: Values in [0, 1].
    """
    sizes = [min(COARSE, side) for side in images.shape[-2:]]
    flat = images.detach().float().reshape(-1, *images.shape[-3:])
    means = F.interpolate(flat, size=sizes, mode="area")
    return F.interpolate(means, size=images.shape[-2:], mode="bilinear").reshape(images.shape)


def to_bytes(images: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n c h w"]:
    """Return pictures as bytes, 0 to 255; arguments as for `eight_bit`. Halves are rounded to the even number."""
    return (images.detach().float().nan_to_num(nan=GREY).clamp(0, 1) * 255).round().byte().contiguous()


def png_of(picture: Float[Tensor, "c h w"]) -> bytes:
    """Return the content of a PNG file of a picture with one channel (grey) or three (RGB), values in [0, 1]."""
    from PIL import Image

    pixels = to_bytes(picture).permute(1, 2, 0).cpu().numpy()
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(content, format="PNG")
    return content.getvalue()
