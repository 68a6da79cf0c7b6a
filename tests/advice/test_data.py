"""The pictures of a federation: no picture in two parts, and labels that mean the same classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from unveil.advice.data import FederationData, Source, load_data
from unveil.advice.tiles import TEXTURES, tiles
from unveil.core.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six plain pictures, no two alike."""
    for number in range(12):
        path = tmp_path / "all" / ("dark" if number < 6 else "light") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 20 * number).save(path)
    return tmp_path / "all"


def source(images: Path | str, **changes: object) -> Source:
    return Source(images=str(images), size=(4, 4), channels=1, seed=0, **changes)  # type: ignore[arg-type]


def levels(found: FederationData) -> list[list[int]]:
    """The grey level of each picture of each part, over 20."""
    assert found.decoys is not None
    parts = (found.train, found.test, found.decoys)
    return [[round(float(image.mean() * 255 / 20)) for image in part.images] for part in parts]


def test_every_picture_is_in_one_part_with_its_label(folder: Path) -> None:
    found = load_data(source(folder), train=6, test=4, decoys=2)
    assert sorted(level for part in levels(found) for level in part) == list(range(12))
    assert found.train.labels.tolist() == [int(level >= 6) for level in levels(found)[0]]
    assert (found.classes, found.class_names) == (2, ("dark", "light"))


def test_test_pictures_of_another_folder_have_the_classes_of_the_first(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "test" / "light" / "1.png"
    path.parent.mkdir(parents=True)
    Image.new("L", (4, 4), 200).save(path)
    found = load_data(source(folder), train=4, test=1, decoys=0, tested=source(tmp_path / "test"))
    assert found.test.labels.tolist() == [1]  # the folder has only one class, which is the second one
    path.parent.rename(tmp_path / "test" / "grey")
    with pytest.raises(UsageError, match="class 'grey' is not in class_names"):
        load_data(source(folder), train=4, test=1, decoys=0, tested=source(tmp_path / "test"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 10, "test": 4, "decoys": 0}, "holds 12 pictures, of which 10 are taken"),
        ({"train": 4, "test": 0, "decoys": 0}, "expected at least 1 test picture, got 0"),
        ({"train": 4, "test": 2, "decoys": 0, "classes": 1}, "show 2 classes, and the model tells 1 apart"),
    ],
)
def test_what_cannot_be_loaded_is_said(folder: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_data(source(folder), **options)  # type: ignore[arg-type]


def test_tiles_take_turns_and_do_not_overlap() -> None:
    found = tiles(640, size=(4, 6), channels=1, seed=0)
    assert found.images.shape == (640, 1, 4, 6)
    assert found.labels.tolist() == list(range(10)) * 64
    whole = tiles(600, size=(4, 6), channels=1, seed=0, skip=40)
    assert torch.equal(whole.images, found.images[40:])
    # all tiles of a photograph together are the photograph: as many different ones as it has
    of_one = found.images[found.labels == TEXTURES.index("astronaut")]
    assert len({tuple(tile.flatten().tolist()) for tile in of_one}) > 60
    with pytest.raises(UsageError, match="have 640 tiles, and 641 are wanted"):
        tiles(1, size=(4, 4), channels=1, seed=0, skip=640)
