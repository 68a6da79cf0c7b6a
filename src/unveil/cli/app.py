"""The commands. Each imports what it needs when it runs, so that `unveil --help` takes a fraction of a second."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from unveil import __version__
from unveil.cli.advising import advise
from unveil.cli.auditing import audit, check, demo
from unveil.cli.fitting import fit
from unveil.cli.gating import gate
from unveil.cli.merging import merge
from unveil.cli.presenting import INTERRUPTED, present
from unveil.cli.terminal import say, say_json, warnings_shown
from unveil.core.allocation import keep_freed_memory
from unveil.core.errors import UsageError, one_line
from unveil.core.files import write_new
from unveil.core.usercode import blame, is_users

KINDS = ("models", "trainings", "obfuscations", "attacks", "enhancers", "metrics")
TEMPLATE = Path(__file__).with_name("template.toml")
ADVICE = Path(__file__).with_name("advice.toml")
USAGE, INTERNAL = 2, 3


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    The exit code is 0, 1 beyond a gate's limit or where no setting meets a target, 2 for a mistake of the user's or of
    the user's network, 3 for a bug in unveil, 5 for an audit without trials or what cannot be judged, 130 after an
    interrupt.

    Args:
        args: The arguments; None for those of the process.
    """
    options = {"debug": bool(os.environ.get("UNVEIL_DEBUG"))}
    keep_freed_memory()
    try:
        with warnings_shown():
            code = unveil.main(args, prog_name="unveil", standalone_mode=False, obj=options)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        say("Interrupted.", err=True)
        code = INTERRUPTED
    except UsageError as error:
        say(f"Error: {one_line(str(error))}", err=True)
        code = USAGE
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else bool(left.code)
        if is_users(left):
            code = _blamed(left)
    except Exception as error:
        if options["debug"]:
            traceback.print_exc()
        if is_users(error):
            sys.exit(_blamed(error))
        say(
            f"Internal error: {type(error).__name__}: {one_line(str(error))}\nThis is a bug in unveil: run the same "
            "command as `unveil --debug ...` and report what it prints to the project's issue tracker.",
            err=True,
        )
        code = INTERNAL
    sys.exit(code or 0)


def _blamed(error: BaseException) -> int:
    """Say where the user's own network failed during an audit; return the exit code."""
    say(f"Error: {one_line(blame(error))}", err=True)
    return USAGE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error; also UNVEIL_DEBUG=1.")
@click.version_option(__version__)
@click.pass_obj
def unveil(options: dict[str, bool], debug: bool) -> None:
    """Show what a federated-learning update gives away: rebuild the client's images from it and score them."""
    options["debug"] |= debug


for command in (demo, audit, check, fit, gate, merge, advise):
    unveil.add_command(command)


@unveil.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME", help="The client's network, package.module:factory, for the labels.")
@click.option("--global", "before", type=click.Path(path_type=Path), help="Weights before the round, if FILE has none.")
@click.option("--fact", "facts", multiple=True, metavar="NAME=VALUE", help="A fact that the manifest does not have.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def inspect(file: Path, model: str | None, before: Path | None, facts: tuple[str, ...], as_json: bool) -> None:
    """Tell from the recorded update in FILE how it was obfuscated, and what is wrong with it.

    With the network also how often each class occurs in the batch.
    """
    from unveil.cli.inspecting import inspect_file

    inspect_file(file, before=before, model=model, facts=facts, as_json=as_json)


@unveil.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write the report of DIR anew.

    DIR is the results folder of an audit, finished or not.
    """
    from unveil.audits.folder_settings import read_settings
    from unveil.audits.order import in_order
    from unveil.audits.results import read_trials
    from unveil.audits.trial_pictures import whole_trials
    from unveil.core.allocation import no_garbage
    from unveil.core.foreign_settings import NAME as SETTINGS

    with no_garbage():
        trials = read_trials(folder)
        if os.path.lexists(folder / SETTINGS):
            trials = in_order(trials, read_settings(folder, fix="give the --out folder of an audit"))
        whole_trials(folder, trials, fate="the same `unveil audit` runs these trials again")  # for its warning
        present(folder, trials, as_json=False)


@unveil.command("list")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def list_(kind: str | None, as_json: bool) -> None:
    """Show what an audit file can name.

    Every component with its settings and their defaults; ... stands for one that must be given.
    """
    import dataclasses
    import json
    import shutil

    from unveil.cli.listing import entries

    found = entries(kind)
    if as_json:
        say_json(json.dumps([dataclasses.asdict(entry) for entry in found], indent=2, ensure_ascii=False))
        return
    shown, width = "", max(shutil.get_terminal_size().columns, 60)
    for entry in found:
        if entry.kind != shown:
            say(f"{entry.kind}:" if not shown else f"\n{entry.kind}:")
            shown = entry.kind
        settings = (f"{key}=..." if value is None else f"{key}={value}" for key, value in entry.settings.items())
        indent = " " * 24
        say(click.wrap_text(entry.summary, width, f"  {entry.name:22}", indent))
        if entry.settings:
            say(click.wrap_text(", ".join(settings), width, indent, indent))


@unveil.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option(
    "--advise", "for_advice", is_flag=True, help="Write a file for `unveil advise`; also if PATH is advise.toml."
)
def init(path: Path | None, for_advice: bool) -> None:
    """Write an audit file to start from.

    It goes to PATH, audit.toml if not given, is commented, and runs as it is.
    """
    is_advice = for_advice or (path is not None and path.name == "advise.toml")
    path = path or Path("advise.toml" if is_advice else "audit.toml")
    try:
        write_new(path, (ADVICE if is_advice else TEMPLATE).read_bytes())
    except FileExistsError:
        raise UsageError(f"{path} exists and is left as it is; give another path, or move it away") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give a path that can be written") from None
    say(f"Wrote {path}. Run it with: unveil {'advise' if is_advice else 'audit'} {path}")
