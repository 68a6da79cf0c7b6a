"""One picture file to pixels: known formats only, and no more pixels than a machine has room for."""

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
"""Pillow's names of the formats that are read, whatever a file's name says. It knows more: EPS starts Ghostscript."""

MOST_PIXELS = 100_000_000
"""Of one picture: 300 MB as RGB. Looked at before the pixels are unpacked, since a few bytes can claim billions."""

MOST_BYTES = 1024 * MIB
"""Of one file of a picture."""

REPAIR = "repair or remove it"


def read_picture(source: Path | bytes, name: str, *, most: int = MOST_PIXELS) -> Image:
    """An RGB picture of 8 bits a channel, upright as its camera was held, what is transparent white.

    Args:
        source: A file, or its content.
        name: What messages call it.
        most: Pixels that it may have.

    Raises:
        UsageError: It is no picture, damaged, too large, or has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with _opened(source, name, most) as picture:
            ImageOps.exif_transpose(picture, in_place=True)  # a camera held upright says so here only
            if picture.mode[0] in "IF":
                raise UsageError(
                    f"picture {name}: expected 8 bits a channel, got mode {picture.mode}; save it as an 8-bit PNG"
                )
            flat: Image.Image = picture
            if picture.has_transparency_data:
                flat = picture.convert("RGBA")
                flat = Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat)
            return flat.convert("RGB")
    except UsageError:
        raise
    except Exception as error:  # every decoder has exceptions of its own
        raise UsageError(f"picture {name} cannot be read ({reason_of(error)}); {REPAIR}") from None


def size_of(source: bytes, name: str, *, most: int = MOST_PIXELS) -> tuple[int, int]:
    """Width and height in pixels, without unpacking them; arguments and errors as in `read_picture`."""
    with _opened(source, name, most) as picture:
        width, height = picture.size
    return width, height


def load_fitted(
    path: Path, size: tuple[int, int], channels: int = 3, *, least: int = 1
) -> Float[Tensor, "channels height width"]:
    """A picture file in [0, 1], cropped about its centre to the shape asked for and resized.

    Args:
        path: The file.
        size: Height and width that it is brought to, pixels.
        channels: 3 for RGB, 1 for grey.
        least: Pixels a side that it must have.

    Raises:
        UsageError: As in `read_picture`, or the picture is smaller.
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
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Path):
        regular(source, "picture", fix=REPAIR, most=MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, about which there is a sentence below
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
