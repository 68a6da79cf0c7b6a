"""Reading recorded updates: one file, or a folder of several clients and rounds. No code in a file is run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unveil.captures.checks import Unchecked, checked, parts_of
from unveil.captures.manifest import Manifest
from unveil.captures.reading_archives import MANIFEST, read_archived_npz, read_pt
from unveil.captures.reading_safetensors import read_safetensors
from unveil.captures.recording import BEFORE, CLIENT, DELTA, GRADIENT, Recording
from unveil.core.errors import UsageError
from unveil.core.files import MIB, amount, is_folder, quoted, reason_of, regular, shown
from unveil.core.reads import shared_read

LARGEST = 4096 * MIB
"""Most bytes of a file, and of all files of a folder together."""
FILES = 10_000
"""Most recorded updates in a folder."""
SAFETENSORS, NPZ = ".safetensors", ".npz"
SUFFIXES = (SAFETENSORS, NPZ, ".pt", ".pth")
FIX = "record it again as docs/format.md shows"


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What a file holds, not yet checked: its parts, the text of its manifest (None if it has none), its SHA-256."""

    path: Path
    parts: Unchecked
    manifest: str | None
    digest: str


def read_recording(path: str | Path, *, before: str | Path | None = None) -> Recording:
    """Read one recorded update.

    Args:
        path: A .safetensors, .npz or .pt file, as docs/format.md describes; or a `state_dict` after local training.
        before: A file with the weights before local training, if `path` does not have them: a `state_dict`, or the
            `global/` tensors of another recorded update.

    Raises:
        UsageError: A file is not regular, too large or damaged, holds anything but finite numbers and a manifest, or
            its parts do not fit together.
    """
    content = _read(Path(path))
    if before is not None and BEFORE in content.parts:
        raise UsageError(f"{_start(content.path)} has weights of its own before local training; leave the others out")
    return _recording(content, None if before is None else _read(Path(before)))


@shared_read
def read_recordings(path: str | Path, *, before: str | Path | None = None) -> tuple[Recording, ...]:
    """Read one recorded update, or all of a folder, sorted by round, client and file name.

    A folder is read without its sub-folders. A file in it that is called `global`, such as `global.safetensors`, has
    the weights before local training for the files that do not have them.

    Args:
        path: The file or the folder.
        before: As in `read_recording`; for a folder, instead of its own file `global`.

    Raises:
        UsageError: There is nothing to read, or a file cannot be used.
    """
    folder = Path(path)
    if not is_folder(folder):
        return (read_recording(folder, before=before),)
    shared, files = _listed(folder)
    if shared and before is not None:
        raise UsageError(f"{shown(folder)} has {quoted(shared[0].name)}; move it away, or leave the other weights out")
    weights = next((_read(Path(file)) for file in (*shared, before) if file is not None), None)
    contents = map(_read, files)
    found = [_recording(content, None if BEFORE in content.parts else weights) for content in contents]
    return tuple(sorted(found, key=_place))


def _listed(folder: Path) -> tuple[Sequence[Path], Sequence[Path]]:
    """Return the files `global` of a folder, one at most, and its recorded updates, at least one."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        raise UsageError(f"{shown(folder)} cannot be read ({reason_of(error)}); check its permissions") from None
    shared = [file for file in files if file.stem == BEFORE]
    files = [file for file in files if file not in shared]
    if len(shared) > 1:
        raise UsageError(f"{shown(folder)} has {len(shared)} files called {BEFORE}; keep one of them")
    if not 0 < len(files) <= FILES or size > LARGEST:
        most = f"1 to {FILES:,} of at most {amount(LARGEST)} together"
        raise UsageError(
            f"{shown(folder)} has {len(files):,} files ending in {', '.join(SUFFIXES)} of {amount(size)}, expected "
            f"{most}; name a file, or a folder of fewer"
        )
    return shared, files


def _read(path: Path) -> _Content:
    """Read a file, whose content is checked only as far as its format needs."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{_start(path)}: expected a file ending in {', '.join(SUFFIXES)}; {FIX}")
    regular(path, "recorded update", fix=FIX, absent="check the path", most=LARGEST)
    try:
        if suffix == SAFETENSORS:
            tensors, metadata = read_safetensors(path)
            text = metadata.get(MANIFEST)
        else:
            tensors, text = read_archived_npz(path, FIX) if suffix == NPZ else read_pt(path)
        parts = parts_of(tensors)
        with path.open("rb") as raw:
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
    except UsageError:
        raise
    except Exception as error:  # a damaged archive raises what zipfile, NumPy, torch and the pickle inside raise
        raise UsageError(f"{_start(path)} cannot be read: {reason_of(error)}; {FIX}") from None
    return _Content(path=path, parts=parts, manifest=text, digest=digest)


def _recording(content: _Content, weights: _Content | None) -> Recording:
    """Check the content of a file, with the weights before local training of another file, if there is one."""
    parts, digest = content.parts, content.digest
    if weights is not None:
        parts = {**parts, BEFORE: weights.parts.get(BEFORE, weights.parts.get(CLIENT, {}))}
        digest = hashlib.sha256(f"{digest} {weights.digest}".encode()).hexdigest()
    try:
        manifest = Manifest() if content.manifest is None else Manifest.parse(content.manifest)
        kept, manifest = checked(parts, manifest)
    except ValueError as error:
        raise UsageError(f"{_start(content.path)} cannot be used: {error}; {FIX}") from None
    return Recording(
        path=content.path,
        digest=digest,
        manifest=manifest,
        before=kept.get(BEFORE, {}),
        client=kept.get(CLIENT, {}),
        delta=kept.get(DELTA, {}),
        gradient=kept.get(GRADIENT, {}),
    )


def _place(recording: Recording) -> tuple[int, str, str]:
    manifest = recording.manifest
    return manifest.round.value or 0, manifest.client.value or "", recording.path.name


def _start(file: Path) -> str:
    return f"recorded update: {shown(file)}"
