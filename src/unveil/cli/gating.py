"""The command `gate`: whether an audit stays within limits, for continuous integration."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unveil.cli.presenting import PAGE
from unveil.cli.terminal import console, say, say_json
from unveil.core.errors import UsageError, one_line, writing
from unveil.core.files import make_folder, shown, write_whole

if TYPE_CHECKING:
    from unveil.core.records import Trial
    from unveil.gate.decision import Decision


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--fail-on", multiple=True, metavar="CONDITION", help="As in 'reid_top1 > 10%' or 'psnr.worst > 20'.")
@click.option("--obfuscation", "chosen", multiple=True, metavar="SPEC", help="Judge this one.  [default: all]")
@click.option("--baseline", type=click.Path(path_type=Path), help="Fail if more came back than in this earlier audit.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML to this file.")
@click.option("--sarif", type=click.Path(path_type=Path), help="Write SARIF 2.1.0 to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as one JSON object.")
def gate(
    folder: Path,
    fail_on: tuple[str, ...],
    chosen: tuple[str, ...],
    baseline: Path | None,
    junit: Path | None,
    sarif: Path | None,
    as_json: bool,
) -> None:
    """Fail if more came back in the audit DIR than the limits allow.

    A condition is METRIC or METRIC.worst, then > (or < where a low value means leakage), then a limit. Of a mean the
    end of its 95 % interval is judged. Exits with 0 if all is within its limit, 1 if something is not, 5 if nothing was
    audited or the attack fails on the bare update.
    """
    from unveil.gate.earlier import Earlier
    from unveil.gate.gate import decide

    if not fail_on and baseline is None:
        raise UsageError("gate: there is no limit; give one, as in --fail-on 'reid_top1 > 0.1', or --baseline DIR")
    trials, settings = _read(folder)
    earlier = None
    if baseline is not None:
        before, settings_before = _read(baseline)
        earlier = Earlier(name=shown(baseline), trials=before, settings=settings_before)
    decision = decide(trials, settings, fail_on, chosen=[_canonical(name) for name in chosen], earlier=earlier)
    _write(folder, decision, junit, sarif)
    _show(folder, decision, as_json=as_json)
    sys.exit(decision.exit_code)


def _read(folder: Path) -> tuple[list[Trial], dict[str, Any]]:
    """The trials of a results folder, and what its `audit.json` says of the audit."""
    from unveil.audits.folder_settings import read_settings
    from unveil.audits.order import in_order
    from unveil.audits.results import read_trials

    trials, settings = read_trials(folder), read_settings(folder, fix="give the --out folder of an audit")
    return in_order(trials, settings), settings


def _write(folder: Path, decision: Decision, junit: Path | None, sarif: Path | None) -> None:
    """Write the files for other tools, before anything is printed."""
    if junit is not None:
        from unveil.gate.junit import junit as as_junit

        _write_to(junit, "--junit", as_junit(decision, when=datetime.datetime.now(datetime.UTC)))
    if sarif is not None:
        from unveil.cli.audited_file import places
        from unveil.gate.sarif import sarif as as_sarif

        found = places(folder, {one.pool.obfuscation for one in decision.judgements})
        _write_to(sarif, "--sarif", as_sarif(decision, found))


def _write_to(path: Path, option: str, content: bytes) -> None:
    """Write a file; its folder is made if it is missing."""
    with writing(path.parent, option):
        make_folder(path.parent)
        write_whole(path, content)


def _canonical(name: str) -> str:
    """An obfuscation as results name it; what is no SPEC stays as it is."""
    from unveil.obfuscations import parse

    try:
        return str(parse(name))
    except UsageError:
        return name


def _show(folder: Path, decision: Decision, *, as_json: bool) -> None:
    """Print the decision: as one JSON object, or the values that decide and what they say."""
    from pydantic_core import to_json

    from unveil.gate.judging import Ruling
    from unveil.gate.table import as_data, table

    if as_json:
        data = {"folder": os.fsencode(folder).decode(errors="backslashreplace"), **as_data(decision)}
        say_json(to_json(data, indent=2, inf_nan_mode="strings").decode())
        return
    if decision.judgements:
        terminal = console()
        (terminal if terminal.is_terminal else console(width=PAGE)).print(table(decision.deciding))
    for one in decision.deciding:
        if one.ruling is not Ruling.PASSED:
            say(one_line(f"{one.condition}: {one.pool.name}: {one.sentence}"))
    for remark in decision.remarks:
        say(one_line(remark))
    say(one_line(decision.sentence), err=decision.exit_code != 0)
