"""Decoding one picture file: only some formats are read, and only pictures that fit into memory."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.files import MIB, quoted, reason_of, regular

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read, whatever a file is called. Others are unsafe: EPS runs Ghostscript."""

MOST_PIXELS = 100_000_000
"""Most pixels of one picture, 300 MB as RGB. Checked before decoding, because a small file can declare billions."""

MOST_BYTES = 1024 * MIB
"""Most bytes of one picture file."""

TWELVE_BITS = 4095
"""Largest value of 12 bits, which scanners often keep in files of 16 bits without scaling it."""

REPAIR = "repair or remove it"


def read_picture(source: Path | bytes, name: str, *, most: int = MOST_PIXELS) -> Image:
    """Read a picture as RGB with 8 bits per channel, turned upright by its EXIF tag, on a white background.

    Grey pictures of 16 bits are divided by 257, so that 65535 becomes 255.

    Args:
        source: A file, or its content.
        name: The picture's name in messages.
        most: Most pixels that it may have.

    Raises:
        UsageError: The file is no picture, damaged or too large, or its values have no known range: they are floats, or
            integers of 32 bits.
    """
    from PIL import Image, ImageOps

    try:
        with _opened(source, name, most) as picture:
            ImageOps.exif_transpose(picture, in_place=True)
            flat: Image.Image = picture
            if picture.mode[0] in "IF":
                flat = _eight_bits(picture, name)
            if picture.has_transparency_data:
                flat = picture.convert("RGBA")
                flat = Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat)
            return flat.convert("RGB")
    except UsageError:
        raise
    except Exception as error:  # every decoder has exceptions of its own
        raise UsageError(f"picture {name} cannot be read ({reason_of(error)}); {REPAIR}") from None


def _eight_bits(picture: Image, name: str) -> Image:
    """Return a grey picture of 16 bits as one of 8 bits; raise a `UsageError` if its values have no known range."""
    import numpy as np
    from PIL import Image

    values = np.asarray(picture)
    # Pillow opens 16-bit PPM, and some 16-bit PNG, as mode I, which has 32 bits.
    sixteen = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))
    if not sixteen or values.min() < 0 or values.max() > 65535:
        raise UsageError(
            f"picture {name}: expected 8 or 16 bits a channel, got mode {picture.mode}, whose largest value is not "
            "known; save it as an 8-bit or 16-bit PNG"
        )
    if 0 < values.max() <= TWELVE_BITS:
        raise UsageError(
            f"picture {name}: its 16-bit values end at {values.max()}, so that it would be nearly black; multiply "
            "values of 12 bits by 16, or save it as an 8-bit PNG"
        )
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def size_of(source: bytes, name: str, *, most: int = MOST_PIXELS) -> tuple[int, int]:
    """Return width and height in pixels without decoding the picture; arguments and errors as in `read_picture`."""
    with _opened(source, name, most) as picture:
        width, height = picture.size
    return width, height


def load_fitted(
    path: Path, size: tuple[int, int], channels: int = 3, *, least: int = 1
) -> Float[Tensor, "channels height width"]:
    """Read a picture file, crop it about its centre to an aspect ratio, and resize it.

    Args:
        path: The file.
        size: Height and width of the result, pixels.
        channels: 3 for RGB, 1 for grey.
        least: Smallest height and width that the picture in the file may have, pixels.

    Returns:
        The picture in [0, 1].

    Raises:
        UsageError: As in `read_picture`, or the picture is smaller than `least`.
    """
    import numpy as np
    from PIL import Image, ImageOps

    picture = read_picture(path, quoted(path))
    if min(picture.size) < least:
        raise UsageError(
            f"picture {quoted(path)} has {picture.width} x {picture.height} pixels, expected at least {least} a side; "
            "remove it"
        )
    fitted = ImageOps.fit(picture, size[::-1], Image.Resampling.LANCZOS).convert("L" if channels == 1 else "RGB")
    return torch.from_numpy(np.array(fitted)).reshape(*size, channels).permute(2, 0, 1).float() / 255


def _opened(source: Path | bytes, name: str, most: int) -> Image:
    """Open a picture without decoding it; errors as in `read_picture`."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Path):
        regular(source, "picture", fix=REPAIR, most=MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures, which are checked below
            picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError:
        raise UsageError(
            f"picture {name} cannot be read (inside it is none of {', '.join(FORMATS)}); {REPAIR}"
        ) from None
    except Image.DecompressionBombError:
        raise UsageError(_too_large(name, "hundreds of millions of", most)) from None
    except Exception as error:  # every decoder has exceptions of its own
        raise UsageError(f"picture {name} cannot be read ({reason_of(error)}); {REPAIR}") from None
    if picture.width * picture.height > most:
        picture.close()
        raise UsageError(_too_large(name, f"{picture.width} x {picture.height}", most))
    return picture


def _too_large(name: str, pixels: str, most: int) -> str:
    return f"picture {name} has {pixels} pixels, and at most {most // 10**6} million are read; make it smaller"
