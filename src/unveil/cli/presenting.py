"""What the commands share: run an audit and present its results, and the components that options name."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from unveil.cli.terminal import console, say, say_json
from unveil.core.errors import UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from unveil.audits.executor import Executor
    from unveil.audits.shard import Shard
    from unveil.audits.task import Runnable
    from unveil.clients.client import Client
    from unveil.core.protocols import Enhancer
    from unveil.core.records import Trial

PAGE = 110  # columns of a table that goes into a file or a pipe
NOTHING, INTERRUPTED = 5, 130  # exit codes


def say_clients(clients: Sequence[Client]) -> None:
    """Print on standard error, before an audit, how well each client's model fits its batch, and what is in doubt."""
    for client in clients:
        for sentence in ([] if client.fit is None else [f"{client.fit.sentence}."]) + list(client.notes):
            say(one_line(f"client {client.name}: {sentence}"), err=True)


def run_and_present(
    audit: Runnable,
    folder: Path,
    part: Shard | None = None,
    *,
    as_json: bool,
    author: str = "",
    executor: Executor | None = None,
) -> None:
    """Run an audit with its progress on standard error, then present its trials; exits with 130 if interrupted.

    Args:
        audit: The audit.
        folder: Its results folder.
        part: Which part of its trials to run; None for all.
        as_json: Whether to print one JSON object instead of tables.
        author: Who answers for the audit; empty to name nobody.
        executor: What runs the trials; None to run one after the other in this process.
    """
    from unveil.audits.results import read_trials
    from unveil.audits.running import SERIAL, run
    from unveil.audits.shard import ShardedAudit
    from unveil.cli.progress import shown
    from unveil.report.formatting import count

    whole = len(audit)
    audit = audit if part is None else ShardedAudit(audit=audit, shard=part)
    command = shlex.join(["unveil", *sys.argv[1:]])
    try:
        with shown(console(err=True)) as listener, redirect_stdout(sys.stderr):
            trials = run(audit, folder, listener, command=command, author=author, executor=executor or SERIAL)
    except KeyboardInterrupt:
        say(
            f"Interrupted: {_kept(audit, folder)} of {len(audit)} trials are kept in {folder}; "
            f"run the same command again to go on, or `unveil report {shlex.quote(str(folder))}` for a report of them.",
            err=True,
        )
        sys.exit(INTERRUPTED)
    present(folder, trials, as_json=as_json, settings=json.dumps(audit.settings(), indent=2, ensure_ascii=False))
    if part is not None:
        say(
            f"This is part {part.number} of {part.count}, {count(len(trials), 'trial')} of {whole}; "
            "`unveil merge DIR... --out DIR` joins the folders of all parts.",
            err=True,
        )
    if others := len(read_trials(folder)) - len(trials):
        say(
            f"{folder} also holds {count(others, 'trial')} of other settings; `unveil report "
            f"{shlex.quote(str(folder))}` reports all of them.",
            err=True,
        )


def _kept(audit: Runnable, folder: Path) -> int:
    """Number of trials of the audit that are finished in the folder."""
    from unveil.audits.results import read_trials, trial_key

    wanted = {trial_key(task.settings, task.seed) for task in audit.tasks()}
    try:
        return sum(trial_key(trial.settings, trial.seed) in wanted for trial in read_trials(folder))
    except UsageError:  # interrupted before the folder was made
        return 0


def present(folder: Path, trials: list[Trial], *, as_json: bool, settings: str = "") -> None:
    """Write the tables and the report, then print the results and where they are; exits with 5 if there are no trials.

    Args:
        folder: The results folder.
        trials: The trials to report.
        as_json: Whether to print one JSON object instead of tables.
        settings: The resolved settings of these trials, shown in the report; empty for those of the folder.
    """
    import dataclasses

    from pydantic_core import to_json

    from unveil.audits.tabular import write_scores
    from unveil.core.allocation import no_garbage
    from unveil.report import headline, notice, print_table, summarise, write_report
    from unveil.report.export import summary, write_summary

    if not trials:
        say(f"Nothing was audited: {folder} holds no finished trial; run `unveil audit` into it.", err=True)
        sys.exit(NOTHING)
    with no_garbage():
        rows = summarise(trials)
        tables = (write_summary(folder, rows), write_scores(folder, trials))
        path = write_report(folder, trials, settings=settings, rows=rows)
    if as_json:
        folder_name, report_name = (os.fsencode(name).decode(errors="backslashreplace") for name in (folder, path))
        results = {
            "folder": folder_name,
            "report": report_name,
            "headline": headline(rows),
            "rows": summary(rows),
            "trials": [dataclasses.asdict(trial) for trial in trials],
        }
        say_json(to_json(results, indent=2, inf_nan_mode="strings").decode())
    else:
        terminal = console()
        print_table(trials, terminal if terminal.is_terminal else console(width=PAGE), rows=rows)
        say(f"Report: {path}")
        say(f"Tables: {' and '.join(map(str, tables))}")
    if private := notice(trials):
        say(private, err=True)


def results_folder(
    file: Path, *, variant: str | None = None, enhancer: Enhancer | None = None, part: Shard | None = None
) -> Path:
    """The results folder of an audit file: one for each variant, each enhancer of the command line, and each part.

    Two files of weights with one name have two folders, as has a component of another package with other settings.

    Args:
        file: The audit file, or the recorded update.
        variant: Name of its variant; None for none.
        enhancer: The enhancer that `--enhancer` names; None for none.
        part: Which part of the trials is run; None for all.
    """
    of_enhancer = "" if enhancer is None else re.sub(r"[^\w.=+-]+", "-", str(enhancer).replace(".safetensors@", "-"))
    of_part = "" if part is None else f"{part.number}-of-{part.count}"
    return Path("audits", "-".join(filter(None, (file.stem, variant, of_enhancer, of_part))))


def named_enhancer(name: str) -> Enhancer | None:
    """The enhancer that `--enhancer` names; raises a `UsageError` that names the option."""
    from unveil.enhancers import parse

    try:
        return parse(name)
    except UsageError as error:
        raise UsageError(f"--enhancer {name}: {error}") from None


def named_device(name: str) -> torch.device:
    """The device that `--device` names; raises a `UsageError` if torch cannot compute on it."""
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UsageError(f"--device {name} cannot be used: {reason}; use cpu") from None
    return device
