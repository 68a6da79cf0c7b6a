"""Large pictures are made smaller for the page; what is no picture, or a bomb, is left out."""

from __future__ import annotations

import io
import zlib

import pytest
import torch
from PIL import Image

from unveil.core.pixels import png_of
from unveil.report.thumbnail import MOST_PIXELS, SIDE, thumbnail


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(content, format="PNG")
    return content.getvalue()


def test_small_pictures_stay_as_they_are() -> None:
    picture = png_of(torch.rand(3, SIDE, SIDE))
    assert thumbnail(picture) == picture


@pytest.mark.parametrize(("size", "wanted"), [((512, 512), (256, 256)), ((1024, 300), (256, 75)), ((4, 600), (2, 256))])
def test_large_pictures_are_made_smaller_and_keep_their_shape_and_colours(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    with Image.open(io.BytesIO(thumbnail(png(*size)))) as smaller:
        assert smaller.size == wanted
        assert smaller.getextrema() == ((10, 10), (20, 20), (30, 30))


def test_what_is_no_picture_is_left_out() -> None:
    whole = png(400, 400)
    for content in (b"", b"text", whole[:20], whole[:200], b"%!PS-Adobe-3.0 EPSF-3.0", whole.replace(b"PNG", b"GIF")):
        assert thumbnail(content) == b""


def test_a_bomb_is_measured_before_it_is_decoded() -> None:
    head = (MOST_PIXELS // 4).to_bytes(4, "big") + (5).to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    chunk = b"IHDR" + head
    bomb = png(1, 1)[:8] + len(head).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    assert thumbnail(bomb + png(1, 1)[33:]) == b""
