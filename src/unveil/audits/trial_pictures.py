"""The pictures of a trial in a results folder: writing them, and telling later whether they are all there and whole."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unveil.core.errors import UsageError, writing
from unveil.core.files import MIB, make_folder, quoted, shown, write_several
from unveil.core.inside import read_inside, refuse_link
from unveil.core.pixels import png_of
from unveil.core.records import ORIGINAL, PRIOR_ONLY, Trial
from unveil.core.types import Images

IMAGES = "images"
LARGEST = 128 * MIB  # of one picture, which is read whole; one of 40 million pixels in colour has less
PNG_BEGIN, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
log = logging.getLogger(__name__)
AGAIN = "delete it and run the audit again"


def saved(folder: Path, key: str, trial: Trial) -> Trial:
    """Write the pictures of a trial, and return the trial with their paths and checksums instead.

    Args:
        folder: The results folder.
        key: The trial's key, the name of the sub-folder.
        trial: The trial with its pictures in memory.

    Raises:
        UsageError: The disk is full or the folder cannot be written.
    """
    if not trial.pictures:
        return trial
    written = {name: save_pictures(folder, key, name, images) for name, images in trial.pictures.items()}
    paths = {name: list(checksums) for name, checksums in written.items()}
    outcomes = {}
    for name, outcome in trial.outcomes.items():
        enhancement = outcome.enhancement
        if enhancement is not None:
            enhancement = replace(enhancement, prior_only=paths.get(PRIOR_ONLY, []))
        outcomes[name] = replace(outcome, images=paths[name], enhancement=enhancement)
    checksums = {path: checksum for some in written.values() for path, checksum in some.items()}
    return replace(trial, originals=paths.get(ORIGINAL, []), outcomes=outcomes, checksums=checksums, pictures={})


def save_pictures(folder: Path, key: str, stem: str, images: Images) -> dict[str, str]:
    """Write a PNG for each picture; when this returns, they are on the disk, and only their owner may read them.

    Args:
        folder: The results folder.
        key: The trial's key, the name of the sub-folder.
        stem: Start of each file name, such as `original`.
        images: n x c x h x w in [0, 1]; c is 3, or 1 for grey.

    Returns:
        Path of each picture, relative to the folder, in order -> the checksum of its file.

    Raises:
        UsageError: The disk is full or the folder cannot be written.
    """
    contents = {f"{stem}-{number:02d}.png": png_of(picture) for number, picture in enumerate(images)}
    _write(folder, key, contents)
    return {f"{IMAGES}/{key}/{name}": checksum_of(content) for name, content in contents.items()}


def copy_pictures(source: Path, folder: Path, key: str, trial: Trial) -> None:
    """Copy the pictures of a trial from one results folder to another, byte by byte.

    Args:
        source: The folder that holds the trial.
        folder: The folder to write into.
        key: The trial's key, the name of the sub-folder.
        trial: The trial.

    Raises:
        UsageError: A picture does not lie where audits put it, is damaged, or cannot be read or written.
    """
    place, contents = f"{IMAGES}/{key}/", dict[str, bytes]()
    for path in named_pictures(trial):
        name = path.removeprefix(place)
        if not path.startswith(place) or "/" in name:
            raise UsageError(f"{shown(source)}: the picture {quoted(path)} does not lie in {place}; {AGAIN}")
        contents[name] = read_inside(source, path, most=LARGEST, fix=AGAIN)
        if trial.checksums.get(path, checksum_of(contents[name])) != checksum_of(contents[name]):
            raise UsageError(f"{shown(source)}: the picture {quoted(path)} has another checksum; {AGAIN}")
    _write(folder, key, contents)


def named_pictures(trial: Trial) -> Iterator[str]:
    """The paths of all pictures of a trial."""
    yield from trial.originals
    for outcome in trial.outcomes.values():
        yield from outcome.images
        if outcome.enhancement is not None:
            yield from outcome.enhancement.prior_only


def whole_trials(folder: Path, trials: Sequence[Trial], *, fate: str) -> list[Trial]:
    """Return the trials whose pictures are all there as they were written, and log a warning if there are others.

    Args:
        folder: The results folder.
        trials: Trials of it. Of one without checksums, which was written before there were any, pictures need only have
            the beginning and the end of a PNG.
        fate: What becomes of the others, for the warning.
    """
    whole = [trial for trial in trials if is_whole(folder, trial)]
    if lost := len(trials) - len(whole):
        log.warning(
            "%s: pictures of %d of %d trials are missing or damaged; %s", shown(folder), lost, len(trials), fate
        )
    return whole


def is_whole(folder: Path, trial: Trial) -> bool:
    """Return whether every picture that a trial names is in the folder as it was written; see `whole_trials`."""
    return all(_is_whole(folder, path, trial.checksums.get(path)) for path in named_pictures(trial))


def checksum_of(content: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def _write(folder: Path, key: str, contents: Mapping[str, bytes]) -> None:
    """Write the pictures of a trial, by name, into its sub-folder."""
    if not contents:
        return
    with writing(folder, "--out"):
        for place in (folder / IMAGES, folder / IMAGES / key):
            refuse_link(place, AGAIN)
            make_folder(place, private=True)
        for part in (folder / IMAGES / key).glob("*.part"):  # a run that was killed while it wrote left it
            part.unlink()
        write_several(folder / IMAGES / key, contents, private=True)


def _is_whole(folder: Path, path: str, checksum: str | None) -> bool:
    try:
        content = read_inside(folder, path, most=LARGEST, fix=AGAIN)
    except UsageError:
        return False
    if checksum is None:
        return content.startswith(PNG_BEGIN) and content.endswith(PNG_END)
    return checksum_of(content) == checksum
