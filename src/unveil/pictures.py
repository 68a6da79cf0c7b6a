"""Pictures and labels from a folder, or the built-in ones that need no download."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.core import Images
from unveil.errors import UsageError, nearest

BUILTIN = "builtin"

BUILTIN_PICTURES = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "retina": "retina.jpg",
    "photographer": "camera.png",
    "horse": "horse.png",
    "writing": "text.png",
    "galaxies": "hubble_deep_field.jpg",
    "bricks": "brick.png",
    "gravel": "gravel.png",
    "grass": "grass.png",
    "clock": "clock_motion.png",
    "cell": "cell.png",
    "vessels": "microaneurysms.png",
}
"""Class name -> file in scikit-image's wheel: those CC0 or in the public domain, the most telling first."""

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MOST_CLASSES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures with their labels.

    Args:
        images: RGB or grey, in [0, 1].
        labels: A class index for each picture.
        class_names: Class index -> name, for every class of the source.
    """

    images: Images
    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]


def load_pictures(
    source: str | Path,
    *,
    count: int,
    size: int | tuple[int, int],
    channels: int = 3,
    labels_csv: str | Path | None = None,
    seed: int = 0,
    skip: int = 0,
) -> Pictures:
    """Load pictures, cropped about their centre to the shape asked for and resized, aspect ratio kept.

    Args:
        source: `builtin`, or a folder whose sub-folders are the classes.
        count: Pictures to load; of a folder chosen by the seed, as many different labels as possible, of the
            built-in ones the first.
        size: Height and width, pixels; two numbers where they differ.
        channels: 3 for RGB, 1 for grey.
        labels_csv: Labels instead of sub-folders: a file with the header `file,label`, each file relative to
            the folder, each label a class index or (if any of them is not a number) a class name.
        seed: Seed of the choice.
        skip: Pictures of the choice that are passed over: those that an earlier call with this seed has taken.

    Raises:
        UsageError: A folder, picture or label that cannot be used, or fewer pictures than asked for.
    """
    if count < 1:
        raise UsageError(f"pictures: expected a batch of at least 1, got {count}; set batch to 1 or more")
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UsageError(f"pictures: expected a size of at least 1 pixel, got {size}; 32 to 128 is usual")
    if channels not in (1, 3):
        raise UsageError(f"pictures: expected 1 channel (grey) or 3 (RGB), got {channels}; set channels to 1 or 3")
    files, labels, class_names = _listing(source, labels_csv)
    if skip and skip + count > len(files):
        raise UsageError(
            f"{str(source)!r} holds {len(files)} pictures, of which {skip} are taken: {count} others are more than "
            f"there are; ask for {max(len(files) - skip, 0)} or fewer, or add pictures"
        )
    if count > len(files):
        raise UsageError(
            f"a batch of {count} is larger than {str(source)!r}, which holds {len(files)} pictures; "
            f"set batch to {len(files)} or less, or add pictures"
        )
    order = range(skip + count) if str(source) == BUILTIN else _choose(labels, skip + count, seed)
    chosen = order[skip:]
    return Pictures(
        images=torch.stack([_load(files[index], (height, width), channels) for index in chosen]),
        labels=torch.tensor([labels[index] for index in chosen]),
        class_names=class_names,
    )


def count_pictures(source: str | Path, *, labels_csv: str | Path | None = None) -> int:
    """How many pictures a source holds; arguments and errors as in `load_pictures`."""
    return len(_listing(source, labels_csv)[0])


def all_pictures(folder: Path, *, size: int) -> Pictures:
    """Every picture of a folder, for what does not need a label: those outside its sub-folders are a class of its name.

    Args:
        folder: Pictures, sub-folders that are classes, or both.
        size: Height and width, pixels.

    Raises:
        UsageError: No folder, no picture in it, or one that cannot be read.
    """
    loose = _pictures_in(_folder(folder))
    if not loose:
        return load_pictures(folder, count=count_pictures(folder), size=size)
    classes, own = _classes(folder), folder.resolve().name
    files, labels, names = _listed({**classes, own: [*classes.get(own, ()), *loose]})
    return Pictures(
        images=torch.stack([_load(file, (size, size), 3) for file in files]),
        labels=torch.tensor(labels),
        class_names=names,
    )


Listing = tuple[list[Path], list[int], tuple[str, ...]]


def _listing(source: str | Path, labels_csv: str | Path | None) -> Listing:
    if str(source) == BUILTIN:
        if labels_csv is not None:
            raise UsageError(f"the built-in pictures have labels of their own; drop {str(labels_csv)!r}")
        return _builtin()
    folder = _folder(Path(source))
    return _from_csv(folder, Path(labels_csv)) if labels_csv else _from_folders(folder)


def _builtin() -> Listing:
    import skimage

    data = Path(skimage.__file__).parent / "data"
    files = [data / file for file in BUILTIN_PICTURES.values()]
    return files, list(range(len(files))), tuple(BUILTIN_PICTURES)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"pictures: {str(path)!r} is not a folder; name one with a sub-folder a class, or {BUILTIN!r}")
    return path


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _classes(folder: Path) -> dict[str, list[Path]]:
    inside = {path.name: _pictures_in(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    return {name: files for name, files in inside.items() if files}


def _from_folders(folder: Path) -> Listing:
    classes = _classes(folder)
    if not classes:
        if _pictures_in(folder):
            raise UsageError(
                f"pictures: {str(folder)!r} holds pictures without labels; "
                "move them into a sub-folder a class, or give a CSV file with the header file,label"
            )
        raise UsageError(
            f"pictures: no pictures in {str(folder)!r} or its sub-folders; "
            f"expected files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return _listed(classes)


def _listed(classes: dict[str, list[Path]]) -> Listing:
    files = [file for group in classes.values() for file in group]
    labels = [label for label, group in enumerate(classes.values()) for _ in group]
    return files, labels, tuple(classes)


def _from_csv(folder: Path, labels_csv: Path) -> Listing:
    import csv

    try:
        with labels_csv.open(newline="", encoding="utf-8-sig") as lines:  # spreadsheets write a byte-order mark
            reader = csv.DictReader(lines)
            header = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {str(labels_csv)!r} ({error}); name a CSV file in UTF-8") from None
    if not {"file", "label"} <= set(header):
        raise UsageError(
            f"{str(labels_csv)!r}: expected the header file,label, got {','.join(header) or 'nothing'}; "
            "make that its first line"
        )
    if not rows:
        raise UsageError(f"{str(labels_csv)!r} names no pictures; add a line file,label for each")
    files, texts = [], []
    for number, row in enumerate(rows, start=2):
        if not row["file"] or not row["label"]:
            raise UsageError(f"{str(labels_csv)!r}, line {number}: expected file,label; fill in both")
        if not (folder / row["file"]).is_file():
            present = [path.name for path in _pictures_in(folder)]
            hint = nearest(row["file"], present) if len(present) in range(1, 9) else "check the name"
            raise UsageError(f"{str(labels_csv)!r}, line {number}: no file {row['file']!r} in {str(folder)!r}; {hint}")
        files.append(folder / row["file"])
        texts.append(row["label"].strip())
    return files, *_numbered(labels_csv, texts)


def _numbered(labels_csv: Path, texts: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Class indices as they are; class names by their sorted order."""
    try:
        labels = [int(text) for text in texts]
    except ValueError:
        names = sorted(set(texts))
        return [names.index(text) for text in texts], tuple(names)
    for number, label in enumerate(labels, start=2):
        if not 0 <= label < MOST_CLASSES:
            raise UsageError(f"{str(labels_csv)!r}, line {number}: label {label} is out of range; count classes from 0")
    return labels, tuple(str(index) for index in range(max(labels) + 1))


def _choose(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Indices in random order, but no label a second time before every label was taken once."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    taken: Counter[int] = Counter()
    rounds = {}
    for index in order:
        rounds[index] = taken[labels[index]]
        taken[labels[index]] += 1
    return sorted(order, key=rounds.__getitem__)[:count]


def _load(path: Path, size: tuple[int, int], channels: int) -> Float[Tensor, "channels height width"]:
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)  # a camera held upright says so here only
            if picture.mode[0] in "IF":
                raise UsageError(
                    f"picture {str(path)!r}: expected 8 bits a channel, got mode {picture.mode}; "
                    "save it as an 8-bit PNG"
                )
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            fitted = ImageOps.fit(picture.convert("RGB"), size[::-1], Image.Resampling.LANCZOS)
            fitted = fitted.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"picture {str(path)!r} cannot be read ({error}); repair or remove it") from error
    return torch.from_numpy(np.array(fitted)).reshape(*size, channels).permute(2, 0, 1).float() / 255
