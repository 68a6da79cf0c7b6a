"""Pictures as they are saved and seen: 8 bits a value, and the grey that stands for knowing nothing."""

from __future__ import annotations

import io

from jaxtyping import Float, UInt8
from torch import Tensor

GREY = 0.5
"""The blind guess: every value of a picture that somebody without the update would answer."""


def eight_bit(images: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """Pictures as an 8-bit file holds them, still as 32-bit floats.

    Args:
        images: Values meant for [0, 1]; those outside are clamped, and NaN becomes `GREY`.

    Returns:
        Multiples of 1/255 in [0, 1], detached.
    """
    return to_bytes(images).float() / 255


def to_bytes(images: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n c h w"]:
    """The same as bytes, 0 to 255, rounded to the nearest and halves to the even one."""
    return (images.detach().float().nan_to_num(nan=GREY).clamp(0, 1) * 255).round().byte().contiguous()


def png_of(picture: Float[Tensor, "c h w"]) -> bytes:
    """A picture of one channel (grey) or three (RGB), values in [0, 1], as the content of a PNG file."""
    from PIL import Image

    pixels = to_bytes(picture).permute(1, 2, 0).cpu().numpy()
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(content, format="PNG")
    return content.getvalue()
