import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from seeds import shifted
from unveil.clients.pictures import BUILTIN_PICTURES, SUFFIXES, all_pictures, count_pictures, load_pictures
from unveil.clients.pictures.decode import read_picture, size_of
from unveil.core.errors import UsageError


def save(path, colour="red", size=(8, 8), **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(settings.pop("mode", "RGB"), size, colour).save(path, **settings)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three classes of 4, 2 and 1 pictures, no two of one colour."""
    for index, name in enumerate(["ant/a", "ant/b", "ant/c", "ant/d", "bee/a", "bee/b", "cow/a"]):
        save(tmp_path / "pictures" / f"{name}.png", (40 * index, 0, 255))
    (tmp_path / "pictures" / "empty").mkdir()
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    return tmp_path / "pictures"


@pytest.fixture
def labelled(folder):
    """Write a CSV of labels beside the folder; returns its path."""

    def write(text, encoding="utf-8"):
        path = folder.parent / "labels.csv"
        path.write_text(text, encoding=encoding)
        return path

    return write


def test_builtin_pictures_are_all_there_and_distinct():
    pictures = load_pictures("builtin", count=len(BUILTIN_PICTURES), size=24)
    assert pictures.images.shape == (len(BUILTIN_PICTURES), 3, 24, 24)
    assert pictures.images.dtype == torch.float32
    assert 0 <= pictures.images.min() < 0.05 < 0.95 < pictures.images.max() <= 1
    assert pictures.class_names == tuple(BUILTIN_PICTURES)
    assert pictures.labels.tolist() == list(range(len(BUILTIN_PICTURES)))
    distance = torch.cdist(pictures.images.flatten(1), pictures.images.flatten(1))
    assert (distance + 100 * torch.eye(len(BUILTIN_PICTURES))).min() > 1


def test_builtin_gives_the_first_whatever_the_seed():
    four, eight = (load_pictures("builtin", count=count, size=16, seed=count) for count in (4, 8))
    assert torch.equal(four.images, eight.images[:4])


def test_sub_folders_are_the_classes(folder):
    pictures = load_pictures(folder, count=7, size=4)
    assert pictures.class_names == ("ant", "bee", "cow")
    assert sorted(pictures.labels.tolist()) == [0, 0, 0, 0, 1, 1, 2]
    for image, label in zip(pictures.images, pictures.labels.tolist(), strict=True):
        index = round(float(image[0, 0, 0]) * 255 / 40)
        assert [0, 0, 0, 0, 1, 1, 2][index] == label


@pytest.mark.parametrize("seed", range(6))
def test_distinct_labels_come_first(folder, seed):
    labels = load_pictures(folder, count=5, size=2, seed=seed).labels.tolist()
    assert sorted(labels[:3]) == [0, 1, 2]
    assert sorted(labels[3:]) == [0, 1]


def test_the_seed_decides(folder):
    drawn = {load_pictures(folder, count=3, size=1, seed=seed).images.numpy().tobytes() for seed in range(8)}
    assert len(drawn) > 1
    assert torch.equal(*(load_pictures(folder, count=3, size=1, seed=5).images for _ in range(2)))


@pytest.mark.parametrize("size", [(60, 20), (20, 60)])
def test_the_central_square_is_kept_with_its_proportions(tmp_path, size):
    picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    long = 0 if size[1] > size[0] else 1
    middle = [slice(None), slice(None)]
    middle[long] = slice(20, 40)
    picture[tuple(middle)] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(picture).save(tmp_path / "a" / "wide.png")
    assert load_pictures(tmp_path, count=1, size=10).images.min() > 0.9


def test_shrinking_does_not_alias(tmp_path):
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(stripes).save(tmp_path / "a" / "stripes.png")
    images = load_pictures(tmp_path, count=1, size=16).images
    assert torch.allclose(images[..., 2:-2], torch.tensor(0.5), atol=0.02)


def test_a_picture_of_the_right_size_is_unchanged(tmp_path):
    picture = np.random.default_rng(shifted(0)).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(picture).save(tmp_path / "a" / "x.PNG")
    image = load_pictures(str(tmp_path), count=1, size=9).images[0]
    assert np.array_equal((image * 255).round().byte().permute(1, 2, 0).numpy(), picture)


def test_orientation_of_the_camera_is_honoured(tmp_path):
    picture = Image.new("RGB", (16, 16))
    picture.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[274] = 6  # Orientation: turn a quarter clockwise to show
    (tmp_path / "a").mkdir()
    picture.save(tmp_path / "a" / "turned.jpg", exif=exif, quality=95)
    image = load_pictures(tmp_path, count=1, size=16).images[0]
    assert image[:, :, 9:].min() > 0.9
    assert image[:, :, :7].max() < 0.1


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 51, (0.2, 0.2, 0.2)),
        ("RGBA", (255, 0, 0, 0), (1, 1, 1)),
        ("RGBA", (255, 0, 0, 255), (1, 0, 0)),
        ("1", 1, (1, 1, 1)),
    ],
)
def test_grey_and_transparent_pictures_become_rgb(tmp_path, mode, colour, expected):
    save(tmp_path / "a" / "x.png", colour, mode=mode)
    image = load_pictures(tmp_path, count=1, size=8).images[0]
    assert image[:, 4, 4].tolist() == pytest.approx(expected, abs=1e-6)


def test_csv_with_class_indices(folder, labelled):
    path = labelled("file,label\nant/a.png,3\ncow/a.png,0\n")
    pictures = load_pictures(folder, count=2, size=2, labels_csv=path)
    assert pictures.class_names == ("0", "1", "2", "3")
    assert sorted(zip(pictures.labels.tolist(), (pictures.images[:, 0, 0, 0] > 0.5).tolist(), strict=True)) == [
        (0, True),
        (3, False),
    ]


def test_csv_with_class_names_from_a_spreadsheet(folder, labelled):
    path = labelled("file,label,by\r\nant/a.png,mite,me\r\nbee/a.png,5,you\r\n", encoding="utf-8-sig")
    pictures = load_pictures(folder, count=2, size=2, labels_csv=str(path))
    assert pictures.class_names == ("5", "mite")
    assert sorted(pictures.labels.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"labels.csv': expected the header file,label, got nothing; make that its first line"),
        ("name,class\na.png,1\n", r"expected the header file,label, got name,class"),
        ("file,label\n", r"labels.csv' names no pictures; add a line file,label for each"),
        ("file,label\nant/a.png,1\nant/b.png\n", r"labels.csv', line 3: expected file,label; fill in both"),
        ("file,label\nant/z.png,1\n", r"labels.csv', line 2: no file 'ant/z.png' in .*pictures'; check the name"),
        ("file,label\nant/a.png,-1\n", r"line 2: label -1 is out of range; count classes from 0"),
        ("file,label\nant/a.png,1000000000\n", r"line 2: label 1000000000 is out of range"),
    ],
)
def test_csv_that_cannot_be_used(folder, labelled, text, message):
    with pytest.raises(UsageError, match=message):
        load_pictures(folder, count=1, size=4, labels_csv=labelled(text))


def test_csv_that_misspells_a_file(tmp_path, labelled, folder):
    save(folder / "sheep.png")
    with pytest.raises(UsageError, match=r"no file 'shep.png' .* did you mean 'sheep.png'\?"):
        load_pictures(folder, count=1, size=4, labels_csv=labelled("file,label\nshep.png,1\n"))


def test_csv_that_is_not_there_or_no_text(folder, tmp_path):
    with pytest.raises(UsageError, match=r"labels: .*none.csv does not exist; name a CSV file in UTF-8"):
        load_pictures(folder, count=1, size=4, labels_csv=tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"cannot read .*a.png', line 1: byte 0x89 is not utf-8; save"):
        load_pictures(folder, count=1, size=4, labels_csv=folder / "ant" / "a.png")


def test_builtin_takes_no_csv():
    with pytest.raises(UsageError, match=r"built-in pictures have labels of their own; drop 'labels.csv'"):
        load_pictures("builtin", count=1, size=4, labels_csv="labels.csv")


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (8, 4, r"a batch of 8 is larger than .*pictures', which holds 7 pictures; set batch to 7 or less"),
        (0, 4, r"expected a batch of at least 1, got 0"),
        (1, 0, r"expected a size of at least 1 pixel, got 0"),
    ],
)
def test_counts_and_sizes_out_of_range(folder, count, size, message):
    with pytest.raises(UsageError, match=message):
        load_pictures(folder, count=count, size=size)


def test_more_than_the_builtin_pictures():
    with pytest.raises(UsageError, match=rf"larger than 'builtin', which holds {len(BUILTIN_PICTURES)} pictures"):
        load_pictures("builtin", count=len(BUILTIN_PICTURES) + 1, size=4)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere' is not a folder; name one with a sub-folder a class, or 'builtin'"):
        load_pictures(tmp_path / "nowhere", count=1, size=4)
    with pytest.raises(UsageError, match=r"no pictures in .* or its sub-folders; expected files ending in .bmp, .gif"):
        load_pictures(tmp_path, count=1, size=4)
    save(tmp_path / "loose.png")
    with pytest.raises(UsageError, match=r"holds pictures without labels; move them into a sub-folder a class, or"):
        load_pictures(tmp_path, count=1, size=4)


def test_a_truncated_picture_is_named(folder):
    path = folder / "cow" / "a.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UsageError, match=r"picture .*cow/a.png' cannot be read \(.*\); repair or remove it"):
        load_pictures(folder, count=7, size=4)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "letter.jpg").write_text("dear client")
    with pytest.raises(UsageError, match=r"picture .*letter.jpg' cannot be read"):
        load_pictures(tmp_path, count=1, size=4)


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix):
    values = np.array([[0, 257], [40_000, 65_535]], dtype=np.uint16)
    (tmp_path / "a").mkdir()
    Image.fromarray(values).save(tmp_path / "a" / f"scan.{suffix}")
    found = load_pictures(tmp_path, count=1, size=2, channels=1)
    # 40,000 of 65,535 is 155.6 of 255.
    assert (found.images * 255).round().flatten().tolist() == [0, 1, 156, 255]


def test_a_grey_picture_of_sixteen_bits_is_grey_in_colour_too(tmp_path):
    save(tmp_path / "a" / "scan.png", 40_000, mode="I;16")
    found = load_pictures(tmp_path, count=1, size=4)
    assert found.images.shape == (1, 3, 4, 4)
    assert (found.images * 255).round().unique().tolist() == [156]


def test_twelve_bits_in_sixteen_are_not_taken_for_darkness(tmp_path):
    save(tmp_path / "a" / "scan.png", 4095, mode="I;16")
    with pytest.raises(UsageError, match=r"scan.png': its 16-bit values end at 4095, .*multiply values of 12 bits"):
        load_pictures(tmp_path, count=1, size=4)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_known_range_are_refused(tmp_path, mode):
    save(tmp_path / "a" / "scan.tiff", 3, mode=mode)
    with pytest.raises(UsageError, match=f"scan.tiff': expected 8 or 16 bits a channel, got mode {mode}"):
        load_pictures(tmp_path, count=1, size=4)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n%%EOF\n"
FOREIGN = {
    "eps": POSTSCRIPT,
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "psd": b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + b"\0" * 400,
    "wmf": b"\xd7\xcd\xc6\x9a\0\0" + b"\0" * 40,
    "text": b"dear client",
    "nothing": b"",
}


@pytest.mark.parametrize("inside", FOREIGN)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_the_formats_are_those_listed_whatever_a_file_is_called(tmp_path, monkeypatch, inside, suffix):
    def started(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", started)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    path = tmp_path / "a" / f"x{suffix}"
    path.parent.mkdir()
    path.write_bytes(FOREIGN[inside])
    with pytest.raises(UsageError, match=r"inside it is none of BMP, .*, WEBP\); repair or remove it"):
        load_pictures(tmp_path, count=1, size=4)
    with pytest.raises(UsageError, match="inside it is none of"):
        read_picture(FOREIGN[inside], "number 1")


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_that_is_taken_for_a_picture_is_of_a_format_that_is_read(tmp_path, suffix):
    save(tmp_path / "a" / f"x{suffix.upper()}", (255, 0, 0))
    assert load_pictures(tmp_path, count=1, size=8).images[0, :, 4, 4].tolist() == pytest.approx([1, 0, 0], abs=0.01)


def claiming(width, height):
    """A PNG whose header gives this size, and which has nearly no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 13_300, 60_000, 2**31 - 1])
def test_pixels_are_counted_before_they_are_unpacked(tmp_path, side):
    path = tmp_path / "a" / "x.png"
    path.parent.mkdir()
    path.write_bytes(claiming(side, side))
    with pytest.raises(UsageError, match=r"x\.png' has .* pixels, and at most 100 million are read; make it smaller"):
        load_pictures(tmp_path, count=1, size=4)


def test_the_largest_picture_is_opened_without_a_warning():
    assert size_of(claiming(10_000, 10_000), "x") == (10_000, 10_000)  # Pillow warns from 90 million pixels on


def test_a_picture_is_read_as_people_see_it(tmp_path):
    """Palette, CMYK, the first of several frames, and names in any script."""
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    (tmp_path / "ä 图").mkdir()
    red.convert("P").save(tmp_path / "ä 图" / "palette.png")
    red.convert("CMYK").save(tmp_path / "ä 图" / "ünï 图片.JPG", quality=95)
    red.save(tmp_path / "ä 图" / "moving.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    pictures = load_pictures(tmp_path, count=3, size=4)
    assert pictures.class_names == ("ä 图",)
    for image in pictures.images:
        assert image[:, 2, 2].tolist() == pytest.approx([1, 0, 0], abs=0.02)


def test_what_is_skipped_is_said_by_name_and_reason(folder):
    (folder / "ant" / "._a.png").write_bytes(b"\0\5\x16\7")
    (folder / "ant" / "Thumbs.db").touch()
    (folder / "bee" / "b.heic").touch()
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "a.png").touch()
    (folder / "bee" / "more").mkdir()
    save(folder / "loose.png")
    pictures = load_pictures(folder, count=7, size=4)
    assert pictures.class_names == ("ant", "bee", "cow")
    (note,) = pictures.notes
    assert note.startswith("8 entries of pictures/ were skipped: ")
    for part in (
        "notes.txt and ant/Thumbs.db are not pictures",
        "__MACOSX and ant/._a.png are hidden",
        "bee/b.heic is in a format that is not read",
        "bee/more/ is a folder inside a class's",
        "loose.png is in no class's folder",
        "empty/ holds no pictures and is no class",
    ):
        assert part in note
    assert count_pictures(folder) == 7


@pytest.mark.parametrize("kind", ["nowhere", "circle", "device", "pipe"])
def test_what_is_called_a_picture_and_is_none_is_refused_by_name(folder, kind):
    path = folder / "dog" / "x.png"
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"nowhere": "gone.png", "circle": "x.png", "device": "/dev/zero"}[kind])
    with pytest.raises(UsageError, match=r"picture: .*dog/x\.png (does not exist|is a |cannot be opened)"):
        load_pictures(folder, count=8, size=4)


def test_of_many_skipped_files_the_first_are_named(folder):
    for number in range(7):
        (folder / "ant" / f"{number}.txt").touch()
    (folder / "empty").rmdir()
    (folder / "notes.txt").unlink()
    (note,) = load_pictures(folder, count=1, size=4).notes
    assert "7 entries" in note
    assert "ant/0.txt, ant/1.txt, ant/2.txt and 4 more are not pictures" in note


def test_nothing_skipped_nothing_said(folder):
    (folder / "empty").rmdir()
    (folder / "notes.txt").unlink()
    assert load_pictures(folder, count=1, size=4).notes == ()
    assert load_pictures("builtin", count=1, size=4).notes == ()


def test_classes_one_level_further_down_are_found_for_the_user(tmp_path):
    for part in ("train", "val"):
        save(tmp_path / part / "ant" / "a.png")
    with pytest.raises(UsageError, match=r"one level further down, as in 'train/ant'; name the folder '.*train' inst"):
        load_pictures(tmp_path, count=1, size=4)


def test_where_nothing_is_a_picture_it_is_said_what_there_is(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.heic").touch()
    with pytest.raises(UsageError, match=r"no pictures in .*a/x\.heic is in a format that is not read.*; expected"):
        load_pictures(tmp_path, count=1, size=4)


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "\ud800"])
def test_folders_that_no_system_could_have(path):
    with pytest.raises(UsageError, match="is not a folder") as error:
        load_pictures(path, count=1, size=4)
    assert str(error.value).isprintable()


def test_pictures_below_the_smallest_size_are_refused_where_one_is_asked_for(tmp_path):
    save(tmp_path / "a" / "x.png", size=(20, 7))
    assert len(all_pictures(tmp_path, size=4).images) == 1
    with pytest.raises(UsageError, match=r"x\.png' has 20 x 7 pixels, expected at least 8 a side; remove it"):
        all_pictures(tmp_path, size=4, least=8)
