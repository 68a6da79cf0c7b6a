"""The results folder: one JSON line for each trial, its pictures, and the settings that all trials share.

DIR/audit.json              the resolved settings; an audit that does not fit them is refused
DIR/results.jsonl           one line for each trial, on disk before the next trial starts
DIR/images/<trial>/*.png    originals and reconstructions, on disk before the trial's line

Only their owner may read these files. Reading never leaves the folder, which may come from somebody else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from unveil.audits.folder_settings import settings_after
from unveil.audits.former_records import completed
from unveil.audits.record_checks import refuse_nonsense
from unveil.audits.trial_pictures import IMAGES, named_pictures, saved
from unveil.core.errors import UsageError, nearest, writing
from unveil.core.files import MIB, append_whole, make_folder, quoted, reason_of, shown, write_whole
from unveil.core.foreign_settings import NAME as SETTINGS
from unveil.core.inside import is_inside, read_inside
from unveil.core.records import FORMAT, Trial

RESULTS = "results.jsonl"
LARGEST = 2048 * MIB  # of results.jsonl; a trial of 64 pictures takes about 10 kB

log = logging.getLogger(__name__)
_TRIAL = TypeAdapter(Trial)


def trial_key(settings: Mapping[str, str], seed: int) -> str:
    """The key of a trial: the first 12 hexadecimal digits of a hash of its settings and seed."""
    text = json.dumps([dict(settings), seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def prepare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder ready for a new audit, or for one that goes on, extends it or is a part of it.

    Args:
        folder: The results folder; created if missing, and then only its owner may look into it.
        settings: The audit's resolved settings, plain JSON.

    Raises:
        UsageError: The folder cannot be written, or holds results that do not fit these settings; see `settings_after`.
    """
    with writing(folder, "--out"):
        make_folder(folder, private=True)
        _mend_last_line(folder)
        is_new = not os.path.lexists(folder / SETTINGS)
        if is_new and (folder / RESULTS).exists() and (folder / RESULTS).stat().st_size:
            raise UsageError(
                f"{folder} holds results but not {SETTINGS}, which says what they are results of; "
                "choose another folder with --out, or delete this one"
            )
        joined = settings if is_new else settings_after(folder, settings)
        if joined is not None:
            content = (json.dumps(joined, indent=2, ensure_ascii=False) + "\n").encode()
            write_whole(folder / SETTINGS, content, private=True)
        if not os.path.lexists(folder / RESULTS):
            write_whole(folder / RESULTS, b"", private=True)


def append(folder: Path, trial: Trial) -> Trial:
    """Write one trial to the folder: its pictures, then its line, which is on the disk when this returns.

    Args:
        folder: The results folder, made ready by `prepare`.
        trial: As `run_trial` returns it.

    Returns:
        The trial with the paths of its pictures, as `read_trials` will give it.

    Raises:
        UsageError: The disk is full, or the folder cannot be written or was deleted.
    """
    if not (folder / RESULTS).is_file():
        raise UsageError(f"{shown(folder / RESULTS)} was deleted while the audit ran; run the same command again")
    trial = saved(folder, trial_key(trial.settings, trial.seed), trial)
    record = {name: value for name, value in dataclasses.asdict(trial).items() if name != "pictures"}
    line = to_json(record, inf_nan_mode="strings") + b"\n"
    with writing(folder, "--out"):
        append_whole(folder / RESULTS, line, create=False)
    return trial


def read_trials(folder: Path) -> list[Trial]:
    """Read every finished trial, oldest first. A last line that a crash cut short is skipped with a warning.

    Args:
        folder: The results folder.

    Raises:
        UsageError: The folder is not a results folder, or a line of it is not a trial of this version.
    """
    path = folder / RESULTS
    if not os.path.lexists(path):
        if os.path.lexists(folder / SETTINGS):
            return []
        raise UsageError(f"{shown(folder)} holds no results ({RESULTS} is missing); give the --out folder of an audit")
    lines, tail = _split(folder)
    trials = [_parse(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if tail:
        try:
            trials.append(_parse(path, len(lines) + 1, tail))
        except UsageError:
            log.warning("%s: the last line was cut short, so that trial does not count", path)
    # Two runs at once into one folder can both finish a trial; it counts once.
    return list({trial_key(trial.settings, trial.seed): trial for trial in trials}.values())


def _parse(path: Path, number: int, line: bytes) -> Trial:
    """The trial of one line of `path`, counted from 1; raises a `UsageError` that names the line."""
    where = f"{shown(path)}, line {number}"
    fix = "repair or delete that line, or delete the folder"
    known = [item.name for item in dataclasses.fields(Trial) if item.name != "pictures"]
    try:
        record = from_json(line)
        _refuse_other_format(where, record)
        if isinstance(record, dict) and (unknown := [key for key in record if key not in known]):
            raise UsageError(f"{where}: unknown key {quoted(unknown[0])}; {nearest(unknown[0][:60], known)}; {fix}")
        trial: Trial = _TRIAL.validate_python(completed(record))
    except ValidationError as error:
        first = error.errors()[0]
        what = shown(".".join(map(str, first["loc"])) or "the line")
        raise UsageError(f"{where}: {what} is not what a trial holds: {first['msg'].lower()}; {fix}") from None
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{where}: not JSON ({reason_of(error)}); {fix}") from None
    try:
        refuse_nonsense(trial)
    except ValueError as error:
        raise UsageError(f"{where}: {shown(str(error))}; {fix}") from None
    for picture in named_pictures(trial):
        # The report embeds these files: a results file must not make it embed others.
        if not (is_inside(picture) and picture.startswith(f"{IMAGES}/")):
            raise UsageError(f"{where}: picture {quoted(picture)} is not inside {IMAGES}/; {fix}")
    return trial


def _refuse_other_format(where: str, record: Any) -> None:
    """Raise a `UsageError` for a record that an earlier or a later unveil wrote."""
    if not isinstance(record, dict) or record.get("format") == FORMAT:
        return
    if isinstance(record.get("format"), int) and record["format"] > FORMAT:
        raise UsageError(
            f"{where}: written by a newer unveil (format {record['format']}, this one reads {FORMAT}); update unveil"
        )
    if "format" not in record and {"scores", "knowledge"} & {*record, *record.get("settings", {})}:
        raise UsageError(
            f"{where}: written by an unveil before format {FORMAT}, which this one does not read; "
            "run the audit again into another folder with --out"
        )


def _split(folder: Path) -> tuple[list[bytes], bytes]:
    """The complete lines of the results, and the rest after the last line end."""
    content = read_inside(folder, RESULTS, most=LARGEST, fix="give the --out folder of an audit")
    *lines, tail = content.split(b"\n")
    return lines, tail


def _mend_last_line(folder: Path) -> None:
    """Complete or remove a last line without a line end, so that the next trial starts on a line of its own."""
    path = folder / RESULTS
    if not os.path.lexists(path):
        return
    lines, tail = _split(folder)
    if not tail:
        return
    try:
        _parse(path, len(lines) + 1, tail)
    except UsageError:
        log.warning("%s: the last line was cut short; it is removed and its trial will be run again", path)
        os.truncate(path, sum(len(line) + 1 for line in lines))
    else:
        append_whole(path, b"\n", create=False)
