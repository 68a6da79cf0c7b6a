"""Pictures as a page holds them: small ones as they are, large ones made smaller."""

from __future__ import annotations

import io
import warnings

PNG = b"\x89PNG\r\n\x1a\n"
SIDE = 256
"""Largest height and width in pixels of a picture that a page holds as it is."""

MOST_PIXELS = 25_000_000
"""Most pixels of a picture that is made smaller, 75 MB as RGB. Larger ones are left out: a small file can be a bomb."""


def thumbnail(png: bytes) -> bytes:
    """Return a PNG of at most `SIDE` pixels a side.

    Args:
        png: A file that anybody may have made.

    Returns:
        The file itself if it is a PNG and small enough; empty if it is none, cannot be read or has too many pixels.
    """
    if not png.startswith(PNG) or len(png) < 24:
        return b""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    if max(width, height) <= SIDE:
        return png
    if width * height > MOST_PIXELS:
        return b""
    from PIL import Image

    content = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures, which are measured above
            with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
                picture.thumbnail((SIDE, SIDE))
                picture.save(content, format="PNG")
    except Exception:  # a decoder raises many kinds for a damaged file
        return b""
    return content.getvalue()
