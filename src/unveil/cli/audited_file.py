"""The file that an audit was run on, found from the command that the results folder keeps."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import quote

import click

from unveil.audits.noting import read_runs
from unveil.cli.auditing import audit
from unveil.cli.toml_files import LARGEST
from unveil.core.errors import UsageError
from unveil.core.files import is_regular, read_bytes
from unveil.core.foreign_settings import NAME as SETTINGS
from unveil.core.inside import is_inside
from unveil.gate.places import Place, located
from unveil.obfuscations import CATALOGUE
from unveil.obfuscations import parse as parse_obfuscation


def places(folder: Path, obfuscations: Collection[str]) -> dict[str, Place]:
    """Where each obfuscation stands in the audit file, and under an empty name the file itself.

    If the file is not found from here, or is no audit file but a recorded update, nothing has a line. The command may
    be anybody's: only a file inside the current folder is read, and nothing of it is shown but the number of a line.

    Args:
        folder: The results folder.
        obfuscations: Obfuscations as rows name them.
    """
    file = next(_named(folder), None)
    if file is None:
        return {"": _place(folder / SETTINGS)}
    place = _place(file)
    text = _text(file)
    return {"": place, **{name: located(place, text, name, _canonical) for name in obfuscations}}


def _named(folder: Path) -> Iterator[Path]:
    """The files of the commands that audited into the folder, newest first, if they lie inside the current folder."""
    for run in reversed(read_runs(folder)):
        try:
            program, command, *args = shlex.split(run.command)
            if (program, command) != ("unveil", audit.name):
                continue
            file = audit.make_context("audit", args, resilient_parsing=True).params.get("file")
            inside = None if file is None else Path(os.path.relpath(file))
        except (ValueError, OSError, click.ClickException):
            continue
        if inside is not None and is_inside(inside.as_posix()) and is_regular(inside):
            yield inside


def _text(file: Path) -> str:
    """The content of an audit file; empty for a file that is none."""
    if file.suffix.lower() != ".toml":
        return ""
    try:
        return read_bytes(file, "", fix="give a TOML file", most=LARGEST).decode("utf-8")
    except (UsageError, UnicodeDecodeError):
        return ""


def _canonical(text: str) -> str:
    """A SPEC as results have it; any other text as it is. No component of another package is imported."""
    if any(stage.partition(":")[0].strip() not in CATALOGUE for stage in text.split("+")):
        return text
    try:
        return str(parse_obfuscation(text))
    except UsageError:
        return text


def _place(path: Path) -> Place:
    """A path as a URI, relative to the current folder if it lies inside."""
    full = Path(os.path.abspath(path))
    if full.is_relative_to(Path.cwd()):
        return Place(uri=quote(os.fsencode(full.relative_to(Path.cwd()).as_posix())), is_relative=True)
    return Place(uri=full.as_uri(), is_relative=False)
