"""Pictures of nearly one colour, which an attack leaves where it found nothing."""

from __future__ import annotations

import io

SPREAD = 4.0
"""Standard deviation of a flat picture's grey values at most, of 255."""

HEADER = 256
"""A PNG of nearly one colour has at most as many bytes as this and a byte a pixel; larger ones need not be decoded."""


def is_flat(png: bytes) -> bool:
    """Return whether a PNG shows nearly one colour.

    Args:
        png: A PNG of at most `thumbnail.SIDE` pixels a side; a file that cannot be read is not flat.
    """
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    if len(png) > HEADER + width * height:
        return False
    from PIL import Image, ImageStat

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
            return ImageStat.Stat(picture.convert("L")).stddev[0] <= SPREAD
    except Exception:  # a decoder raises many kinds for a damaged file
        return False
