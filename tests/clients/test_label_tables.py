"""Tables of labels as spreadsheets and data frames write them: what works, and what is named by its line."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unveil.clients.pictures.folders import Listing
from unveil.clients.pictures.table import by_table
from unveil.core.errors import UsageError

FILES = ("a.png", "b c.png", "ünï.png", "sub/d.png", 'q"uote.png', "semi;colon.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables") / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in FILES:
        Image.new("RGB", (4, 4)).save(folder / name)
    Image.new("RGB", (4, 4)).save(folder.parent / "outside.png")
    return folder


@pytest.fixture
def read(folder: Path, tmp_path: Path) -> Callable[[str | bytes], Listing]:
    def read(content: str | bytes) -> Listing:
        path = tmp_path / "labels.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return by_table(folder, path)

    return read


def written(rows: list[list[str]], delimiter: str, end: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    return text.getvalue()


@pytest.mark.slow
@given(
    labels=st.lists(st.sampled_from(["cat", "dog, small", 'the "best"', "ä", "12", "-"]), min_size=6, max_size=6),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    titles=st.permutations(["file", "label", "by", "Split"]),
    upper=st.booleans(),
    blank=st.booleans(),
    spaced=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_however_a_table_is_written_it_says_the_same(
    folder: Path,
    labels: list[str],
    delimiter: str,
    encoding: str,
    end: str,
    titles: list[str],
    upper: bool,
    blank: bool,
    spaced: bool,
) -> None:
    if all(label == "12" for label in labels):
        labels = [*labels[:-1], "cat"]
    rows = [[title.upper() if upper else title for title in titles]]
    for file, label in zip(FILES, labels, strict=True):
        cells = {"file": file, "label": label, "by": "me", "Split": "0"}
        rows.append([f" {cells[title]} " if spaced else cells[title] for title in titles])
    if blank:
        rows = [item for row in rows for item in (row, [], [""] * 4)]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "labels.csv")
        path.write_bytes(written(rows, delimiter, end).encode(encoding))
        found = by_table(folder, path)
    assert [os.path.relpath(file, folder) for file in found.files] == [os.path.normpath(file) for file in FILES]
    assert [found.class_names[label] for label in found.labels] == labels
    assert found.notes == ()


@pytest.mark.parametrize(
    "text",
    [
        "file,label\na.png,1.0\nsub/d.png,0.0\n",
        "sep=;\r\nfile;label\r\na.png;1\r\nsub/d.png;0\r\n",
        "file,label\n./a.png,1\nsub\\d.png,0\n",
        "file,label\nsub/../a.png,1,more,columns\nsub/d.png,00\n",
    ],
)
def test_what_programs_make_of_numbers_and_paths(read: Callable[[str], Listing], folder: Path, text: str) -> None:
    found = read(text)
    assert [file.relative_to(folder).as_posix() for file in found.files] == ["a.png", "sub/d.png"]
    assert list(found.labels) == [1, 0]


def test_an_absolute_path_inside_the_folder_is_fine(read: Callable[[str], Listing], folder: Path) -> None:
    assert read(f"file,label\n{folder / 'a.png'},x\n").files == [folder / "a.png"]


def test_classes_that_count_from_one_are_said(read: Callable[[str], Listing]) -> None:
    found = read("file,label\na.png,1\nsub/d.png,2\n")
    assert list(found.labels) == [1, 2]
    assert found.notes == ("The labels begin at 1: no picture has a smaller one, though classes count from 0.",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,label\na.png,\xe9\n", "line 2: byte 0xe9 is not utf-8; save it as CSV in UTF-8"),
        ("file,label\na.png,x\n".encode("utf-16-le"), "it looks like UTF-16; save it in UTF-8"),
        ("name;class\na.png;x\n", "expected the header file,label, got name;class; make that its first line"),
        ("x" * 9000, "expected the header file,label, got x+…x+; make that"),
        ("file,label,label\na.png,x,y\n", "the header names label 2 times; keep one such column"),
        ('file,label\na.png,x\nsub/d.png,"y\n', "line 3: unexpected end of data; close every quote"),
        ('file,label\n"a.png,x\nsub/d.png,"y\n', "line 2: .* expected after .*; close every quote"),
        (f'file,label\na.png,x\nsub/d.png,"{"y" * 200_000}"\n', "line 3: field larger than field limit"),
        ("file,label\na.png,x\n\na.png,y\n", "line 4: 'a.png' stands in line 2 too, there with the label 'x'; keep"),
        ("file,label\na.png,x\nsub/../a.png,x\n", "line 3: 'sub/../a.png' stands in line 2 too"),
        ("file,label\na.png,x\nsub/d.png\n", "line 3: expected file,label; fill in both"),
        ("file,label\na.png,x\n,y\n", "line 3: expected file,label; fill in both"),
        ("file,label\na.png,1\nsub/d.png,2.5\n", "line 3: label '2.5' is no whole number; write class indices, or nam"),
        ("file,label\na.png,1\nsub/d.png,nan\n", "line 3: label 'nan' is no whole number"),
        ("file,label\na.png,1\nsub/d.png,inf\n", "line 3: label 'inf' is no whole number"),
        (f"file,label\na.png,1\nsub/d.png,{10**30}\n", "line 3: label 10+ is out of range; count classes from 0"),
        ("file,label\na.png,1\nsub/d.png,-2\n", "line 3: label -2 is out of range; count classes from 0"),
        ("file,label\na.png,x\n../outside.png,y\n", "line 3: '../outside.png' is not inside '.*pictures'; put the pic"),
        ("file,label\na.png,x\n/etc/passwd,y\n", "line 3: '/etc/passwd' is not inside"),
        ("file,label\na.png,x\n/dev/zero,y\n", "line 3: '/dev/zero' is not inside"),
        ("file,label\na.png,x\nsub/../../outside.png,y\n", "is not inside"),
        ("file,label\na.png,x\nsub,y\n", "line 3: no file 'sub' in"),
        (f"file,label\na.png,x\n{'z' * 5000},y\n", "line 3: no file 'z+…z+' in"),
        ("file,label\na.png,x\nsub/d\0.png,y\n", r"line 3: no file 'sub/d\\x00.png' in"),
        ("file,label\na.png,x\n\x1b[31mred.png,y\n", r"line 3: no file '\\x1b\[31mred.png' in"),
        ("file,label\nA.PNG,x\n", r"line 2: no file 'A.PNG' in .*; did you mean 'a.png'\?"),
        ("file,label\n\n \n,\n", "names no pictures; add a line file,label for each"),
    ],
    ids=range(27),
)
def test_a_line_that_cannot_be_used_is_named(
    read: Callable[[str | bytes], Listing], content: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        read(content)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_a_link_inside_the_folder_may_lead_anywhere(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "l.csv").write_text("file,label\nlink.png,x\n")
    assert by_table(tmp_path / "pictures", tmp_path / "l.csv").files == [tmp_path / "pictures" / "link.png"]
    os.mkfifo(tmp_path / "pictures" / "pipe.png")
    (tmp_path / "l.csv").write_text("file,label\nlink.png,x\npipe.png,y\n")
    with pytest.raises(UsageError, match=r"line 3: no file 'pipe.png'"):
        by_table(tmp_path / "pictures", tmp_path / "l.csv")
