"""docs/house.svg: the committed picture is the one of today's imports, and its arrows go down."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from docs.house_picture import picture, rooms

from sources import nodes
from test_layers import FILES, allowed, imported, room_of

DRAWN = Path(__file__).resolve().parents[1] / "docs" / "house.svg"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.slow
def test_the_committed_picture_is_that_of_the_code() -> None:
    assert DRAWN.read_text() == picture(rooms()), "run `python docs/house_picture.py`"


def test_the_arrows_are_the_imports_that_the_table_of_layers_reads() -> None:
    lines = ElementTree.parse(DRAWN).iter(f"{SVG}line")
    drawn = {(line.get("data-from"), line.get("data-to")) for line in lines if line.get("data-from")}
    read = {
        (room_of(path), other)
        for path in FILES
        for other in imported(nodes(path))
        if room_of(path) not in (other, "__main__")
    }
    assert drawn == read
    assert all(allowed(str(room), str(other)) for room, other in drawn)


def test_every_arrow_goes_down() -> None:
    lines = [line for line in ElementTree.parse(DRAWN).iter(f"{SVG}line") if line.get("data-from")]
    assert len(lines) > 20
    assert all(float(line.get("y1", "nan")) < float(line.get("y2", "nan")) for line in lines)


def test_only_an_arrow_that_follows_from_others_is_faint() -> None:
    drawn = ElementTree.fromstring(picture({"top": {"middle", "ground"}, "middle": {"ground"}, "ground": set()}))
    kinds = {
        (line.get("data-from"), line.get("data-to")): line.get("class")
        for line in drawn.iter(f"{SVG}line")
        if line.get("data-from")
    }
    assert kinds == {("top", "middle"): "next", ("middle", "ground"): "next", ("top", "ground"): "far"}


def test_a_circle_cannot_be_drawn() -> None:
    with pytest.raises(RecursionError):
        picture({"one": {"other"}, "other": {"one"}})
