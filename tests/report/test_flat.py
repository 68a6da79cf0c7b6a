"""Reconstructions of one colour are marked and explained, unless the original has one colour too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from report.conftest import MakeTrial
from seeds import seeded
from unveil.core.pixels import png_of
from unveil.report import write_report
from unveil.report.flat import is_flat

GREY = torch.full((3, 64, 64), 0.5)


def halves(size: int) -> Tensor:
    """Black above white, which has a small PNG and is not flat."""
    picture = torch.zeros(3, size, size)
    picture[:, size // 2 :] = 1
    return picture


def noisy(levels: float, size: int = 64) -> Tensor:
    """Grey with normal noise of this standard deviation, in levels of 255."""
    return 0.5 + levels / 255 * torch.randn((1, size, size), generator=seeded(0)).expand(3, -1, -1)


@pytest.mark.parametrize(
    ("picture", "flat"),
    [
        (GREY, True),
        (torch.zeros(3, 256, 256), True),
        (torch.zeros(1, 8, 8), True),
        (torch.tensor([0.9, 0.1, 0.2])[:, None, None].expand(-1, 32, 32), True),
        (halves(64), False),
        (halves(8), False),
        (noisy(0.4), True),
        (noisy(9.0), False),
        (torch.rand((3, 64, 64), generator=seeded(1)), False),
    ],
)
def test_a_picture_of_nearly_one_colour_is_flat(picture: Tensor, flat: bool) -> None:
    assert is_flat(png_of(picture)) is flat


def test_what_cannot_be_read_is_not_flat() -> None:
    assert not is_flat(png_of(GREY)[:60])
    assert not is_flat(b"")


def test_flat_pictures_are_marked_and_explained_once(tmp_path: Path, trial: MakeTrial) -> None:
    (tmp_path / "images").mkdir()
    originals, rebuilt = [f"images/o{i}.png" for i in range(8)], [f"images/r{i}.png" for i in range(8)]
    for number in range(8):
        textured = torch.rand((3, 64, 64), generator=seeded(number))
        (tmp_path / originals[number]).write_bytes(png_of(GREY if number == 2 else textured))
        (tmp_path / rebuilt[number]).write_bytes(png_of(GREY if number in (2, 5) else textured))
    plain = trial(pictures=True)
    outcome = replace(plain.outcomes["attack"], images=rebuilt)
    page = write_report(tmp_path, [replace(plain, originals=originals, outcomes={"attack": outcome})]).read_text()
    assert page.count('<span class="flat">flat</span></figcaption>') == 1  # of picture 6, not of the grey original
    assert page.count("nearly one colour, though the original is not") == 1

    outcome = replace(outcome, images=originals)
    page = write_report(tmp_path, [replace(plain, originals=originals, outcomes={"attack": outcome})]).read_text()
    assert "flat</span>" not in page
