"""Pictures as 8-bit files hold them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from seeds import seeded
from unveil.core.pixels import eight_bit, png_of, to_bytes


def test_values_are_the_nearest_of_256_levels() -> None:
    values = torch.tensor([0.0, 0.2, 0.5, 1.0, -1.0, 2.0, float("nan"), float("inf")]).reshape(1, 1, 1, 8)
    assert to_bytes(values).flatten().tolist() == [0, 51, 128, 255, 0, 255, 128, 255]


def test_rounding_is_at_most_half_a_level_and_twice_is_once() -> None:
    images = torch.rand((2, 3, 4, 5), generator=seeded(0))
    rounded = eight_bit(images)
    assert (rounded - images).abs().max() <= 0.5 / 255 + 1e-7
    assert torch.equal(eight_bit(rounded), rounded)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_png_holds_what_another_reader_reads(channels: int, mode: str) -> None:
    picture = torch.rand((channels, 4, 5), generator=seeded(0))
    with Image.open(io.BytesIO(png_of(picture))) as read:
        assert (read.mode, read.format) == (mode, "PNG")
        levels = np.asarray(read).reshape(4, 5, channels)
    assert np.array_equal(levels, np.rint(picture.permute(1, 2, 0).numpy() * np.float32(255)).astype(np.uint8))
