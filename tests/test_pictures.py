import numpy as np
import pytest
import torch
from PIL import Image

from seeds import shifted
from unveil.errors import UsageError
from unveil.pictures import BUILTIN_PICTURES, load_pictures


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


def test_sixteen_bits_are_not_clipped_silently(tmp_path):
    save(tmp_path / "a" / "scan.png", 40_000, mode="I;16")
    with pytest.raises(UsageError, match=r"scan.png': expected 8 bits a channel, got mode I;16; save it as an 8-bit"):
        load_pictures(tmp_path, count=1, size=4)
