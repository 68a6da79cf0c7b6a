"""Unpack the research pictures into folders that an audit file can name, for `false_sense.toml` and `advice.toml`.

    python -m benchmarks.unpack [--data DIR] [--anchor DIR] [--to studies/pictures]

Makes `caltech` (test split, 99 classes), `imagenet` (one picture a class, 700 classes), `published` (the 16 pictures of
ROG's published batch), `cifar10` and `cifar10-others` (a half of the training pictures each) and `cifar10-test`, a
sub-folder a class. They are research data: the folder is not kept in the repository.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.frame import ROOT, Places
from benchmarks.reading import read


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Places.data)
    parser.add_argument("--anchor", type=Path, default=Places.anchor)
    parser.add_argument("--to", type=Path, default=ROOT / "studies" / "pictures")
    args = parser.parse_args()
    for folder, marker in ((args.data, "load.py"), (args.anchor, "anchor.json")):
        if not (folder / marker).is_file():
            print(f"skipped: {folder} holds no {marker}; name the folders with --data and --anchor")
            return 0
    names = [entry["name"] for entry in json.loads((args.data / "imagenet_classes.json").read_text())]
    pictures, labels, classes, npz = read(args.data, "caltech99_128.npz")
    test = [i for i in range(len(labels)) if int(npz["split"][i]) == 1]
    put(args.to / "caltech", ((classes[int(labels[i])], Image.fromarray(pictures[i])) for i in test))
    pictures, labels, _, _ = read(args.data, "imagenet700_256.npz")
    put(
        args.to / "imagenet",
        ((names[int(label)], Image.fromarray(p)) for label, p in zip(labels, pictures, strict=True)),
    )
    for name, folder, half in (
        ("cifar10_train15k.npz", "cifar10", 0),
        ("cifar10_train15k.npz", "cifar10-others", 1),
        ("cifar10_test4k.npz", "cifar10-test", None),
    ):
        pictures, labels, classes, _ = read(args.data, name)
        chosen = [i for i in range(len(labels)) if half is None or i % 2 == half]  # each class is in both halves
        put(args.to / folder, ((classes[int(labels[i])], Image.fromarray(pictures[i])) for i in chosen))
    facts: dict[str, Any] = json.loads((args.anchor / "anchor.json").read_text())
    put(
        args.to / "published",
        (
            (names[label], Image.open(args.anchor / "original" / f"{i}.png").convert("RGB"))
            for i, label in enumerate(facts["labels"])
        ),
    )
    return 0


def put(folder: Path, pictures: Iterable[tuple[str, Image.Image]]) -> None:
    """Write the pictures, those that were there before replaced, and say how many."""
    shutil.rmtree(folder, ignore_errors=True)
    number = 0
    for number, (name, picture) in enumerate(pictures, 1):
        place = folder / name.replace("/", " ")
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{number:05d}.png")
    print(f"{folder}: {number} pictures")


if __name__ == "__main__":
    sys.exit(main())
