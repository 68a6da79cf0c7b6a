"""The command `advise`: which obfuscation meets a target in a federation, and what it costs."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unveil.cli.options import float32_option
from unveil.cli.presenting import INTERRUPTED, NOTHING, PAGE
from unveil.cli.terminal import console, say, say_json
from unveil.core.errors import UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from unveil.advice.advising import Advice, Listener, Question
    from unveil.advice.assessment import Assessment
    from unveil.advice.estimate import Estimate
    from unveil.advice.updates import Places
    from unveil.audits.executor import Executor
    from unveil.audits.kept_pictures import Kept
    from unveil.audits.progress import AuditProgress

BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)")
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}
NO_SETTING = 1
"""The exit code where no setting meets the target."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results.  [default: advice/NAME of FILE]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, as in federation.rounds=5.")
@click.option("--budget", metavar="TIME", help="Begin no setting that would end later, as in 30m, 2h or 90s.")
@click.option(
    "--images", type=click.Choice(["none", "blurred", "full"]), default="full", help="Pictures that are kept."
)
@float32_option
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Run N attacks at a time, each in a process of its own."
)
@click.option("--ray", metavar="ADDRESS", help="Run the attacks on a Ray cluster: HOST:PORT, or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON object.")
def advise(
    file: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    budget: str | None,
    images: Kept,
    float32: bool,
    workers: int | None,
    ray: str | None,
    as_json: bool,
) -> None:
    """Say which obfuscation of FILE meets a target on leakage in a federation, and what it costs.

    FILE is TOML; `unveil init --advise` writes one to start from. For each candidate the federation is trained for real
    through it, and updates of its first, middle and last round are attacked. Interrupted and started again, it goes on.
    Exits with 0 if some setting meets the target, 1 if none does, 5 if nothing could be judged.
    """
    from unveil.advice.advising import advise as find
    from unveil.advice.estimate import estimate
    from unveil.advice.flower.engine import quiet
    from unveil.audits.running import SERIAL
    from unveil.cli.advice_config import load_question
    from unveil.cli.described import DescribedUpdates
    from unveil.cli.executing import processes_for
    from unveil.cli.progress import shown
    from unveil.core.arithmetic import using
    from unveil.core.reads import Reads, sharing

    limit, reads = None if budget is None else _seconds(budget), Reads()
    folder = out or Path("advice", file.stem)
    command = shlex.join(["unveil", *sys.argv[1:]])
    quiet()  # before a user's module imports Flower
    with using("float32" if float32 else None):
        with redirect_stdout(sys.stderr):  # a user's model may print, and standard output is for results
            with sharing(None if ray is None else reads):
                question = load_question(file, overrides)
            question = dataclasses.replace(question, auditing=dataclasses.replace(question.auditing, images=images))
            for note in question.federation.notes:
                say(one_line(note), err=True)
            has_own_ray = question.trainer.processes(question.federation) > 0
            processes = processes_for(workers=workers, ray=ray, stays=not has_own_ray)
            found = estimate(question, workers=None if processes is None else processes.count)
        where = "on this machine as it is now" if ray is None else "if the whole cluster is as fast as this machine"
        _say_plan(question, found, None if limit is None else found.fitting(limit), budget, where=where)

        def executors(obfuscation: str, without: Places) -> Executor:
            updates = DescribedUpdates(
                file=file,
                overrides=overrides,
                images=images,
                folder=folder,
                obfuscation=obfuscation,
                without=without,
            )
            if processes is None:
                return SERIAL
            own = dict(reads)
            with sharing(None if ray is None else own):
                updates.trainings(question.federation)
            return processes.executor(updates, own)

        try:
            with shown(console(err=True)) as listener, redirect_stdout(sys.stderr):
                advice = find(
                    question,
                    folder,
                    budget=limit,
                    expected=found.setting,
                    listener=_listener(question, listener),
                    command=command,
                    executors=executors,
                )
        except KeyboardInterrupt:
            say(f"Interrupted: what is finished is kept in {folder}; run the same command again to go on.", err=True)
            sys.exit(INTERRUPTED)
    _present(advice, folder, command, as_json=as_json)


def _seconds(budget: str) -> float:
    """A time such as `30m` in seconds."""
    found = BUDGET.fullmatch(budget.strip())
    if found is None or not float(found[1]):
        raise UsageError(f"--budget {budget}: expected a time above 0; write it as 30m, 2h or 90s")
    return float(found[1]) * SECONDS[found[2]]


def _say_plan(question: Question, found: Estimate, fitting: int | None, budget: str | None, *, where: str) -> None:
    """Say before the start how long it takes, with how much memory, and what a budget leaves out."""
    from unveil.report.formatting import count, seconds

    names = ", ".join(one.text for one in question.candidates)
    memory = "" if found.mib is None else f", with {found.mib / 1024:.1f} GiB of memory"
    say(f"At most {count(found.settings, 'setting')} beside the baseline: {names}", err=True)
    _say_trainer(question)
    say(f"About {seconds(found.total)} {where}{memory}, less where a search ends early.", err=True)
    if fitting is not None and fitting < found.settings:
        say(
            f"The budget of {budget} is enough for about {count(fitting, 'setting')}. Candidates take turns; those "
            "that do not fit are named at the end.",
            err=True,
        )


def _say_trainer(question: Question) -> None:
    """Say what trains the federation, unless it is the plain loop and nothing else was to be expected."""
    from unveil.report.formatting import count

    trainer, federation = question.trainer, question.federation
    if trainer.note:
        say(f"{trainer.note}, so a plain loop trains the federation.", err=True)
    elif processes := trainer.processes(federation):
        say(
            f'{trainer.name} trains the federation, {count(processes, "client")} at a time; with trainer = "plain" a '
            "plain loop does, which is faster for small ones.",
            err=True,
        )


def _listener(question: Question, on_progress: Callable[[AuditProgress], None]) -> Listener:
    """Tell on standard error how far trainings are, and what each setting reached."""
    from unveil.advice.advising import Listener
    from unveil.advice.page import outcome

    def on_training(obfuscation: str, seed: int, rounds: int) -> None:
        if rounds == question.federation.rounds:
            say(one_line(f"trained through {obfuscation}, seed {seed}: {rounds} rounds"), err=True)

    def on_assessment(assessment: Assessment) -> None:
        say(one_line(f"{assessment.obfuscation}: {outcome(assessment)}"), err=True)

    return Listener(on_training=on_training, on_progress=on_progress, on_assessment=on_assessment)


def _present(advice: Advice, folder: Path, command: str, *, as_json: bool) -> None:
    """Write data and page, print the answer, and exit with the code that it stands for."""
    import json

    from unveil.advice.answer import NOT_PROVED, headline, sentences
    from unveil.advice.export import as_data
    from unveil.advice.folder import write
    from unveil.advice.page import page
    from unveil.advice.table import table
    from unveil.report.formatting import plain

    data = as_data(advice)
    path = write(folder, data, page(advice, command=command))
    if as_json:
        say_json(json.dumps({"folder": str(folder), **data}, indent=2, ensure_ascii=False))
    else:
        terminal = console()
        (terminal if terminal.is_terminal else console(width=PAGE)).print(table(advice))
        for sentence in (headline(advice), *sentences(advice), NOT_PROVED[0]):
            say(one_line(plain(sentence)))
        say(f"Page: {path}")
    sys.exit(exit_code(advice))


def exit_code(advice: Advice) -> int:
    """0 if some setting meets the target, 5 if nothing could be judged, else 1."""
    from unveil.advice.answer import ranked
    from unveil.gate.judging import Ruling

    if ranked(advice):
        return 0
    judged = [one for one in advice.assessments if one.ruling is not Ruling.UNJUDGED]
    return NO_SETTING if judged else NOTHING
