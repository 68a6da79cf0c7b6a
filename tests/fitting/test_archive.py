"""Files of encoded pictures: every table that does not fit is named, and nothing is unpacked that would not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seeds import shifted
from unveil.core.errors import UsageError
from unveil.fitting import archive
from unveil.fitting.archive import read_archive
from unveil.fitting.sources import read_source

COUNT, SIDE = 6, 16


def encoded(side: int = SIDE, wide: int | None = None, seed: int = 0) -> bytes:
    random = np.random.default_rng(shifted(seed))
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (side, wide or side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def claiming(side: int) -> bytes:
    """A PNG whose header gives this side, and which has no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT"


def written(path: Path, blobs: list[bytes] | None = None, **changed: Any) -> Path:
    blobs = [encoded()] * COUNT if blobs is None else blobs
    tables = {
        "data": np.frombuffer(b"".join(blobs), np.uint8),
        "offsets": np.cumsum([0, *map(len, blobs)]),
        "labels": np.arange(len(blobs), dtype=np.int16) % 2,
        "classes": np.array(["a", "b"]),
    }
    tables |= changed
    np.savez(path / "x.npz", **{name: table for name, table in tables.items() if table is not None})
    return path / "x.npz"


def test_pictures_and_tables_come_back(tmp_path: Path) -> None:
    blobs = [encoded(seed=n) for n in range(COUNT)]
    found = read_archive(written(tmp_path, blobs, extra=np.zeros(3), names=np.array([b"x"] * COUNT)))
    assert found.pixels.shape == (COUNT, SIDE, SIDE, 3)
    for pixels, blob in zip(found.pixels, blobs, strict=True):
        assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(blob))))
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.class_names == ("a", "b")
    assert found.split is None


def test_a_sheet_is_cut_row_by_row_and_may_leave_its_labels_to_the_order(tmp_path: Path) -> None:
    blobs = [encoded(2 * SIDE)]
    sheet = np.asarray(Image.open(io.BytesIO(blobs[0])))
    found = read_archive(written(tmp_path, blobs, sheet=np.array(2), labels=np.zeros(99, np.int16)))
    rows = [sheet[top : top + SIDE, left : left + SIDE] for top in (0, SIDE) for left in (0, SIDE)]
    assert np.array_equal(found.pixels, np.stack(rows))
    assert found.labels.tolist() == [0, 0, 1, 1]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no data": ({"data": None}, "data is missing"),
    "no offsets": ({"offsets": None}, "offsets is missing"),
    "no labels": ({"labels": None}, "labels is missing"),
    "no classes": ({"classes": None}, "classes is missing"),
    "float data": ({"data": np.zeros(9)}, r"data is of shape \(9,\) and type float64, not a list of bytes"),
    "flat data": ({"data": np.zeros((3, 3), np.uint8)}, r"data is of shape \(3, 3\)"),
    "negative offsets": ({"offsets": np.arange(-3, 4)}, "offsets do not rise from 0 to the"),
    "offsets beyond": ({"offsets": np.array([0, 10**15])}, "offsets do not rise"),
    "falling offsets": ({"offsets": np.arange(7)[::-1]}, "offsets do not rise"),
    "equal offsets": ({"offsets": np.zeros(7, int)}, "offsets do not rise"),
    "float offsets": ({"offsets": np.linspace(0, 9, 7)}, "offsets is a table of .* float64, not a list of whole numb"),
    "one offset": ({"offsets": np.array(5)}, r"offsets is a table of shape \(\)"),
    "no picture": ({"offsets": np.array([0])}, "1 offsets stand for no picture"),
    "labels in two dimensions": ({"labels": np.zeros((6, 2), int)}, r"labels is a table of shape \(6, 2\)"),
    "float labels": ({"labels": np.zeros(6)}, "labels is a table of .* float64"),
    "NaN labels": ({"labels": np.full(6, np.nan)}, "labels is a table of .* float64"),
    "text labels": ({"labels": np.array(["a"] * 6)}, "labels is a table of .* <U1"),
    "truth labels": ({"labels": np.zeros(6, bool)}, "labels is a table of .* bool"),
    "negative labels": ({"labels": np.array([0, 1, -1, 0, 1, 0])}, "entry 3 of labels is -1, and there are 2 classes"),
    "large labels": ({"labels": np.array([0, 1, 2, 0, 1, 0])}, "entry 3 of labels is 2, and there are 2 classes"),
    "huge labels": ({"labels": np.full(6, 2**64 - 1, np.uint64)}, "labels holds 18446744073709551615"),
    "few labels": ({"labels": np.zeros(5, int)}, "5 labels do not go with 6 pictures"),
    "many labels": ({"labels": np.zeros(7, int)}, "7 labels do not go with 6 pictures"),
    "no class": ({"classes": np.array([], "U1")}, "classes names 0 classes"),
    "one class alone": ({"classes": np.array("a")}, r"classes is a table of shape \(\)"),
    "numbers as classes": ({"classes": np.arange(2)}, "classes is a table of .* not a list of texts"),
    "sheet of none": ({"sheet": np.array(0)}, "sheet is 0, not one whole number of 1 to 64"),
    "negative sheet": ({"sheet": np.array(-1)}, "sheet is -1"),
    "huge sheet": ({"sheet": np.array(10**9)}, "sheet is 1000000000"),
    "NaN sheet": ({"sheet": np.array(np.nan)}, "sheet is nan"),
    "sheets": ({"sheet": np.arange(3)}, "sheet is .0 1 2."),
    "sheet of parts": ({"sheet": np.array(3)}, r"5 pixels a side, and 16 to 1024"),
    "split of texts": ({"split": np.array(["a"] * 6)}, "split is a table of"),
    "short split": ({"split": np.zeros(3, int)}, "split has 3 entries for 6 pictures"),
    "full_class beyond": ({"full_class": np.array([9])}, "entry 1 of full_class is 9"),
    "full_class twice": ({"full_class": np.array([1, 1])}, "full_class names a class twice"),
    "no pictures": ({"blobs": [b"hello"] * 6}, r"picture number 1 cannot be read \(inside it is none of"),
    "PostScript": ({"blobs": [encoded()] * 2 + [b"%!PS-Adobe-3.0 EPSF-3.0\n"] * 4}, "picture number 3 cannot be read"),
    "half a picture": ({"blobs": [encoded()] * 5 + [encoded()[:400]]}, "picture number 6 cannot be read"),
    "other sizes": ({"blobs": [encoded(32), encoded()] * 3}, "number 2 has 16 x 16 pixels, expected 32 x 32"),
    "no squares": ({"blobs": [encoded(32, 16)] * 6}, "number 1 has 16 x 32 pixels, expected 16 x 16"),
    "one pixel": ({"blobs": [encoded(1)] * 6}, "1 pixels a side, and 16 to 1024 are learned from"),
    "giants": ({"blobs": [claiming(1025)] * 6}, "1025 pixels a side, and 16 to 1024"),
    "bombs": ({"blobs": [claiming(13_000)] * 6}, "number 1 has 13000 x 13000 pixels, and at most 100 million"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named_in_one_sentence(tmp_path: Path, case: str) -> None:
    changed, message = WRONG[case]
    with pytest.raises(UsageError, match=rf"x\.npz cannot be read as pictures.*{message}") as error:
        read_archive(written(tmp_path, **changed))
    assert "\n" not in str(error.value)


def test_all_pictures_together_are_measured_before_the_first_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ROOM", 5 * SIDE**2 * 3)
    monkeypatch.setattr(archive, "read_picture", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(UsageError, match=r"its pictures unpack to 4\.5 KiB, and at most 3\.8 KiB fit"):
        read_archive(written(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(archive, "read_picture", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(UsageError, match="number 6 has"):
        read_archive(written(tmp_path, [encoded()] * 5 + [claiming(900)]))


def test_small_pictures_in_a_folder_are_refused_too(tmp_path: Path) -> None:
    for name, side in (("a", 32), ("b", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(encoded(side))
    with pytest.raises(UsageError, match=r"b/x\.png' has 1 x 1 pixels, expected at least 16 a side; remove it"):
        read_source(tmp_path, size=32)
    with pytest.raises(UsageError, match="expected a size of 16 to 1024 pixels, got 1"):
        read_source(tmp_path, size=1)


def test_what_a_folder_of_pictures_skips_goes_along(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(encoded())
    (tmp_path / "a" / "x.txt").touch()
    source = read_source(tmp_path, size=32)
    assert "a/x.txt is not a picture" in " ".join(source.only([0]).notes)
