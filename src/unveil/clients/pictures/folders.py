"""Listing a folder of pictures: the files of each class, and every skipped entry with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unveil.core.errors import UsageError
from unveil.core.files import is_folder, quoted, reason_of, shown

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
UNREAD = frozenset(
    {".avif", ".cr2", ".dng", ".eps", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".pdf", ".pgm", ".psd", ".raw", ".svg"}
)
"""Suffixes of pictures in formats that are not read."""

SYSTEM = frozenset({"__MACOSX", "@eaDir"})
"""Folders that operating systems create beside pictures, with files that are named like pictures."""

NAMED = 3  # most names that a sentence lists for each reason

HIDDEN = ("is hidden", "are hidden")
LOOSE = ("is in no class's folder", "are in no class's folder")
DEEPER = ("is a folder inside a class's, which is not looked into", "are folders inside a class's, not looked into")
EMPTY = ("holds no pictures and is no class", "hold no pictures and are no classes")
FOREIGN = ("is in a format that is not read", "are in formats that are not read")
OTHER = ("is not a picture", "are not pictures")

Skipped = tuple[str, tuple[str, str]]
"""A name relative to the source's folder, and the reason, in the singular and in the plural."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Picture files with their labels.

    Args:
        files: The files; none of them has been opened yet.
        labels: The class index of each file.
        class_names: Name of each class.
        notes: What a reader must know of the source, a sentence each.
    """

    files: Sequence[Path]
    labels: Sequence[int]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The entries of one folder, sorted by name.

    Args:
        pictures: Files with the suffix of a picture. If one is damaged or a broken link, it is not skipped: reading it
            later raises an error that names it.
        folders: Sub-folders.
        skipped: All other entries, with the reasons.
    """

    pictures: Sequence[Path]
    folders: Sequence[Path]
    skipped: Sequence[Skipped]


def contents(folder: Path, *, within: str = "") -> Contents:
    """List a folder.

    Args:
        folder: The folder.
        within: Prefix of the names of skipped entries, such as `cat/`.

    Raises:
        UsageError: The folder cannot be listed.
    """
    pictures, folders, skipped = [], [], []
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"pictures: {quoted(folder)} cannot be looked into ({reason_of(error)}); make it readable, or move it away"
        ) from None
    for entry in entries:
        path, suffix = folder / entry.name, Path(entry.name).suffix.lower()
        if entry.name.startswith(".") or entry.name in SYSTEM:
            skipped.append((within + entry.name, HIDDEN))
        elif is_folder(path):
            folders.append(path)
        elif suffix not in SUFFIXES:
            skipped.append((within + entry.name, FOREIGN if suffix in UNREAD else OTHER))
        else:
            pictures.append(path)
    return Contents(pictures=pictures, folders=folders, skipped=skipped)


def by_sub_folders(folder: Path, *, loose: bool = False) -> Listing:
    """List a folder whose sub-folders are the classes.

    Args:
        folder: The folder.
        loose: Pictures outside the sub-folders are a class too, with the folder's own name.

    Raises:
        UsageError: The folder has no pictures, or none of them has a label.
    """
    own = contents(folder)
    classes: dict[str, list[Path]] = {}
    skipped = list(own.skipped)
    for path in own.folders:
        inside = contents(path, within=f"{path.name}/")
        skipped += inside.skipped
        if not inside.pictures:
            skipped.append((f"{path.name}/", EMPTY))
            continue
        classes[path.name] = list(inside.pictures)
        skipped += [(f"{path.name}/{deeper.name}/", DEEPER) for deeper in inside.folders]
    if own.pictures and loose:
        classes.setdefault(folder.resolve().name, []).extend(own.pictures)
    elif own.pictures and classes:
        skipped += [(path.name, LOOSE) for path in own.pictures]
    if not classes:
        raise UsageError(_nothing(folder, own, skipped))
    return _numbered(classes, said(folder, skipped))


def said(folder: Path, skipped: Iterable[Skipped]) -> tuple[str, ...]:
    """Return one sentence about all skipped entries of a folder; an empty tuple if there are none."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in skipped:
        groups.setdefault(reason, []).append(name)
    count = sum(map(len, groups.values()))
    if not count:
        return ()
    parts = [f"{_names(names)} {reason[len(names) > 1]}" for reason, names in groups.items()]
    is_are = "entry of {} was" if count == 1 else "entries of {} were"
    return (f"{count} {is_are.format(shown(folder.resolve().name) + '/')} skipped: {', '.join(parts)}.",)


def _names(names: Sequence[str]) -> str:
    """Return the names as a phrase, at most `NAMED` of them."""
    first = [shown(name, 60) for name in names[:NAMED]]
    if len(names) > NAMED:
        return f"{', '.join(first)} and {len(names) - NAMED} more"
    return " and ".join([", ".join(first[:-1]), first[-1]] if len(first) > 1 else first)


def _numbered(classes: Mapping[str, Sequence[Path]], notes: tuple[str, ...]) -> Listing:
    """Return the files of all classes, whose indices are their places in `classes`."""
    return Listing(
        files=[file for group in classes.values() for file in group],
        labels=[label for label, group in enumerate(classes.values()) for _ in group],
        class_names=tuple(classes),
        notes=notes,
    )


def _nothing(folder: Path, own: Contents, skipped: Sequence[Skipped]) -> str:
    """Return a message that says why a folder has no class, and what to do."""
    if own.pictures:
        return (
            f"pictures: {quoted(folder)} holds pictures without labels; "
            "move them into a sub-folder a class, or give a CSV file with the header file,label"
        )
    for path in own.folders:
        for deeper in contents(path).folders:
            if contents(deeper).pictures:
                return (
                    f"pictures: {quoted(folder)} has its classes one level further down, as in "
                    f"{quoted(f'{path.name}/{deeper.name}')}; name the folder {quoted(path)} instead"
                )
    reasons = " ".join(said(folder, skipped))
    return (
        f"pictures: no pictures in {quoted(folder)} or its sub-folders{reasons and f' ({reasons[:-1]})'}; "
        f"expected files ending in {', '.join(sorted(SUFFIXES))}"
    )
