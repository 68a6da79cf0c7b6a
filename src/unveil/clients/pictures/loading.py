"""Loading pictures and labels from a folder, or the built-in pictures, which need no download."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.clients.pictures.decode import load_fitted, read_picture
from unveil.clients.pictures.folders import Listing, by_sub_folders
from unveil.clients.pictures.table import by_table
from unveil.core.errors import UsageError
from unveil.core.files import is_folder, quoted
from unveil.core.reads import shared_read
from unveil.core.types import Images

BUILTIN = "builtin"
KEPT = 64  # built-in pictures in memory, in one size or several

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
"""Class name -> file in scikit-image's wheel; all are CC0 or in the public domain, and the clearest come first."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures with their labels.

    Args:
        images: Pictures, RGB or grey, in [0, 1].
        labels: The class index of each picture.
        class_names: Name of each class of the source.
        notes: What a reader must know of the source, such as skipped files, a sentence each.
    """

    images: Images
    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@shared_read
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
    """Load pictures, crop each about its centre to the aspect ratio of `size`, and resize it.

    Args:
        source: `builtin`, or a folder whose sub-folders are the classes.
        count: Number of pictures. Of a folder, the seed chooses them, with as many different labels as possible; of the
            built-in ones, the first are loaded.
        size: Height and width in pixels; a pair if they differ.
        channels: 3 for RGB, 1 for grey.
        labels_csv: File of labels, instead of sub-folders; see `by_table`.
        seed: Seed of the choice.
        skip: Number of chosen pictures to leave out, because an earlier call with this seed loaded them.

    Raises:
        UsageError: A folder, picture or label cannot be used, or the source has too few pictures.
    """
    if count < 1:
        raise UsageError(f"pictures: expected a batch of at least 1, got {count}; set batch to 1 or more")
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UsageError(f"pictures: expected a size of at least 1 pixel, got {size}; 32 to 128 is usual")
    if channels not in (1, 3):
        raise UsageError(f"pictures: expected 1 channel (grey) or 3 (RGB), got {channels}; set channels to 1 or 3")
    found = _listing(source, labels_csv)
    if skip and skip + count > len(found.files):
        raise UsageError(
            f"{quoted(source)} holds {len(found.files)} pictures, of which {skip} are taken: {count} others are more "
            f"than there are; ask for {max(len(found.files) - skip, 0)} or fewer, or add pictures"
        )
    if count > len(found.files):
        raise UsageError(
            f"a batch of {count} is larger than {quoted(source)}, which holds {len(found.files)} pictures; "
            f"set batch to {len(found.files)} or less, or add pictures"
        )
    order = range(skip + count) if str(source) == BUILTIN else _choose(found.labels, skip + count, seed)
    chosen = order[skip:]
    load = _load_builtin if str(source) == BUILTIN else load_fitted
    return Pictures(
        images=torch.stack([load(found.files[index], (height, width), channels) for index in chosen]),
        labels=torch.tensor([found.labels[index] for index in chosen]),
        class_names=found.class_names,
        notes=found.notes,
    )


@shared_read
def count_pictures(source: str | Path, *, labels_csv: str | Path | None = None) -> int:
    """Return the number of pictures in a source; arguments and errors as in `load_pictures`."""
    return len(_listing(source, labels_csv).files)


def read_all(source: str | Path, *, labels_csv: str | Path | None = None) -> tuple[int, list[str]]:
    """Read every picture of a source, and return their number and a sentence for each one that cannot be used.

    Raises:
        UsageError: The folder or the labels cannot be used.
    """
    files, refused = _listing(source, labels_csv).files, []
    for file in files:
        try:
            read_picture(file, quoted(file))
        except UsageError as error:
            refused.append(str(error))
    return len(files), refused


def all_pictures(folder: Path, *, size: int, least: int = 1) -> Pictures:
    """Load every picture of a folder; pictures outside its sub-folders are a class with the folder's name.

    Args:
        folder: Folder of pictures, of sub-folders that are classes, or of both.
        size: Height and width, pixels.
        least: Smallest height and width that a picture in a file may have, pixels.

    Raises:
        UsageError: The folder is missing or has no pictures, or a picture cannot be read or is too small.
    """
    found = by_sub_folders(_folder(folder), loose=True)
    return Pictures(
        images=torch.stack([load_fitted(file, (size, size), least=least) for file in found.files]),
        labels=torch.tensor(found.labels),
        class_names=found.class_names,
        notes=found.notes,
    )


def _listing(source: str | Path, labels_csv: str | Path | None) -> Listing:
    """List the files and labels of a source; errors as in `load_pictures`."""
    if str(source) == BUILTIN:
        if labels_csv is not None:
            raise UsageError(f"the built-in pictures have labels of their own; drop {quoted(labels_csv)}")
        return _builtin()
    folder = _folder(Path(source))
    return by_table(folder, Path(labels_csv)) if labels_csv else by_sub_folders(folder)


def _builtin() -> Listing:
    """List the built-in pictures, each of which is a class."""
    import skimage

    data = Path(skimage.__file__).parent / "data"
    files = [data / file for file in BUILTIN_PICTURES.values()]
    return Listing(files=files, labels=range(len(files)), class_names=tuple(BUILTIN_PICTURES))


@lru_cache(maxsize=KEPT)
def _load_builtin(path: Path, size: tuple[int, int], channels: int) -> Float[Tensor, "channels height width"]:
    """Load a built-in picture as `load_fitted` does; it is decoded once for all clients that hold it."""
    return load_fitted(path, size, channels)


def _folder(path: Path) -> Path:
    """Return the path; raise a `UsageError` if it leads to no folder."""
    if not is_folder(path):
        raise UsageError(
            f"pictures: {quoted(path)} is not a folder; name one with a sub-folder a class, or {BUILTIN!r}"
        )
    return path


def _choose(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Return indices in random order; no label comes a second time before every label came once, and so on."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    taken: Counter[int] = Counter()
    rounds = {}
    for index in order:
        rounds[index] = taken[labels[index]]
        taken[labels[index]] += 1
    return sorted(order, key=rounds.__getitem__)[:count]
