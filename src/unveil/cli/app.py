"""The commands. Each imports what it needs when it runs, so that `unveil --help` takes a fraction of a second."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from unveil import __version__
from unveil.cli.presenting import (
    INTERRUPTED,
    named_device,
    named_enhancer,
    present,
    results_folder,
    run_and_present,
    say_clients,
)
from unveil.cli.terminal import console, say, say_json, warnings_shown
from unveil.core.errors import UsageError, one_line
from unveil.core.files import write_new
from unveil.core.usercode import is_users, one_line_of

if TYPE_CHECKING:
    from unveil.audits.kept_pictures import Kept

KINDS = ("models", "trainings", "obfuscations", "attacks", "enhancers", "metrics")
TEMPLATE = Path(__file__).with_name("template.toml")
USAGE, INTERNAL = 2, 3
SEED = click.IntRange(0, 2**63 - 1)  # torch takes no larger one


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    The exit code is 0, 2 for a mistake of the user's or of the user's network, 3 for a bug in unveil, 5 for an audit
    without trials, 130 after an interrupt.

    Args:
        args: The arguments; None for those of the process.
    """
    options = {"debug": bool(os.environ.get("UNVEIL_DEBUG"))}
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
    say(
        f"Error: the model failed during the audit, {one_line(one_line_of(error))}; correct it and run the same "
        "command again, finished trials are kept",
        err=True,
    )
    return USAGE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error; also UNVEIL_DEBUG=1.")
@click.version_option(__version__)
@click.pass_obj
def unveil(options: dict[str, bool], debug: bool) -> None:
    """Show what a federated-learning update gives away: rebuild the client's images from it and score them."""
    options["debug"] |= debug


float32_option = click.option(
    "--float32", is_flag=True, help="No bfloat16, the same arithmetic everywhere; also UNVEIL_ARITHMETIC=float32."
)


@unveil.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default="unveil-demo", show_default=True, help="Results folder."
)
@float32_option
def demo(out: Path, float32: bool) -> None:
    """Attack built-in pictures in under a minute."""
    from unveil.cli.demo import demo as demo_audit
    from unveil.core.arithmetic import using

    with using("float32" if float32 else None):
        run_and_present(demo_audit(), out, as_json=False)


@unveil.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Results folder.  [default: audits/FILE[-NAMES]]")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value, as in attack.0.steps=50."
)
@click.option("--variant", metavar="NAME", help="Use the overrides that FILE keeps under [variant.NAME].")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, such as cuda:0.")
@click.option("--lpips-weights", metavar="FILE", help="Score with LPIPS too; FILE holds its weights, or: download.")
@click.option(
    "--enhancer", metavar="NAME", help="Learned prior after the attack: see `list enhancers`, or a file of `fit`."
)
@float32_option
@click.option("--author", metavar="NAME", help="Who answers for the audit, for the head of the report.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
@click.option("--model", metavar="MODULE:FACTORY", help="Of a recorded update: the client's network.")
@click.option("--truth", type=click.Path(path_type=Path), help="Of a recorded update: folder of its pictures.")
@click.option("--decoys", type=click.Path(path_type=Path), help="With --truth: other pictures, for re-identification.")
@click.option("--fact", "facts", multiple=True, metavar="NAME=VALUE", help="Of a recorded update, as examples=8.")
@click.option("--weights", metavar="FILE", help="Of a recorded difference or gradient: the weights before it.")
@click.option("--global", "before", type=click.Path(path_type=Path), help="Of recorded weights: those before training.")
@click.option("--attack", "attacks", multiple=True, metavar="SPEC", help="On a recorded update.  [default: unveil]")
@click.option("--seed", "seeds", multiple=True, type=SEED, help="On a recorded update.  [default: 0]")
@click.option(
    "--images",
    type=click.Choice(["none", "blurred", "full"]),
    help="Pictures that the results keep.  [default: full; of a recorded update blurred]",
)
def audit(
    file: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    variant: str | None,
    device: str,
    lpips_weights: str | None,
    enhancer: str | None,
    float32: bool,
    author: str | None,
    as_json: bool,
    images: Kept | None,
    **recorded: Any,
) -> None:
    """Run the audit that FILE describes, or audit the recorded update FILE.

    FILE is TOML; `unveil init` writes one to start from. Interrupted and started again, the audit goes on. Each variant
    and each enhancer has a folder of its own. A recorded update, or a folder of them, needs --model.
    """
    import dataclasses

    from unveil.cli.config import load
    from unveil.cli.recorded import RecordedOptions, is_recorded, recorded_audit
    from unveil.core.arithmetic import using

    options = RecordedOptions(**recorded)
    if is_recorded(file):
        others = {"--set": overrides, "--variant": variant, "--enhancer": enhancer}
        if wrong := [name for name, value in others.items() if value]:
            raise UsageError(f"{wrong[0]} is for audit files, and {file} is a recorded update; leave it out")
        with using("float32" if float32 else None):
            with redirect_stdout(sys.stderr):
                of_recordings = recorded_audit(file, options, lpips_weights, images=images or "blurred")
                of_recordings = of_recordings.to(named_device(device))
            run_and_present(of_recordings, out or Path("audits", file.stem), as_json=as_json, author=author or "")
        return
    if options.given:
        raise UsageError(f"{options.given[0]} is for recorded updates, and {file} is an audit file; leave it out")
    with redirect_stdout(sys.stderr):  # a user's model may print, and standard output is for results
        described = load(file, overrides, variant=variant)
    if lpips_weights is not None:
        metrics = dataclasses.replace(described.metrics, lpips_weights=lpips_weights)
        described = dataclasses.replace(described, metrics=metrics)
    if enhancer is not None:
        described = dataclasses.replace(described, enhancer=named_enhancer(enhancer))
    described = dataclasses.replace(described, images=images or "full")
    with using("float32" if float32 else None):
        with redirect_stdout(sys.stderr):  # a client tries its model on the new device
            described = described.to(named_device(device))
        say_clients(described.clients)
        folder = results_folder(file, variant, described.enhancer if enhancer is not None else None)
        run_and_present(described, out or folder, as_json=as_json, author=author or described.author)


@unveil.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value, as in attack.0.steps=50."
)
@click.option("--variant", metavar="NAME", help="Use the overrides that FILE keeps under [variant.NAME].")
def check(file: Path, overrides: tuple[str, ...], variant: str | None) -> None:
    """Check the audit file FILE without running it.

    Every picture is read, and all that cannot be used are named. Then it says what each client trains, layer by layer,
    in which mode and with which loss, and about how long the audit takes.
    """
    from unveil.cli.checking import check_file

    check_file(file, overrides, variant=variant)


@unveil.command()
@click.argument("sources", metavar="PICTURES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--setting", type=click.Choice(["faithful", "sharp", "semantic"]), default="faithful", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="File of weights.  [default: WORK/SETTING.safetensors]")
@click.option("--work", type=click.Path(path_type=Path), default="fits", show_default=True, help="Pairs, checkpoints.")
@click.option("--clients", default=400, show_default=True, help="Simulated clients of 16 pictures, attacked for pairs.")
@click.option("--steps", default=20_000, show_default=True, help="Training steps.")
@click.option("--lr", default=4e-4, show_default=True, help="Learning rate.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--evaluate",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Pictures that must not be among them; give it once for each folder or file.",
)
@click.option("--leave-out", is_flag=True, help="Train without the pictures that are for evaluation too.")
@click.option("--begin", type=click.Path(path_type=Path), help="Weights to go on from.")
@click.option("--pairs", multiple=True, type=click.Path(path_type=Path), help="Pairs of an earlier training, used too.")
@click.option("--size", default=128, show_default=True, help="Height and width of a folder's pictures.")
@click.option("--licence", default="not given", help="Of the pictures, for the model card.")
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="AlexNet, for semantic; or: download.")
def fit(sources: tuple[Path, ...], work: Path, out: Path | None, setting: str, **settings: Any) -> None:
    """Train an enhancer on PICTURES.

    Each is a folder or an .npz of encoded pictures. The setting semantic needs classes: a sub-folder each. Interrupted
    and started again, the training goes on. Needs some hours on two cores.
    """
    from unveil.fitting.workers import terminated_as_interrupted

    click.get_current_context().with_resource(terminated_as_interrupted())
    from unveil.cli.progress import fitting_shown
    from unveil.fitting.fit import Fit
    from unveil.fitting.fit import fit as train

    work = work / setting
    command = shlex.join(["unveil", *sys.argv[1:]])
    out = out or work / f"{setting}.safetensors"
    plan = Fit(setting=setting, sources=sources, work=work, out=out, command=command, **settings)  # type: ignore[arg-type]
    try:
        with fitting_shown(console(err=True)) as on_progress:
            card = train(plan, on_progress)
    except KeyboardInterrupt:
        say(f"Interrupted: {work} keeps what is done; run the same command again to go on.", err=True)
        sys.exit(INTERRUPTED)
    for name, value in card["figures"].items():
        say(f"{name}: {value}")
    for note in card["notes"]:
        say(note)
    say(f"Weights: {out}, checksum {card['checksum']}; use them with --enhancer {out}")


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
    from unveil.audits.results import read_trials
    from unveil.audits.trial_pictures import is_whole

    trials = read_trials(folder)
    if lost := sum(not is_whole(folder, trial) for trial in trials):
        say(
            f"Pictures of {lost} of {len(trials)} trials are missing or damaged; the same `unveil audit` runs these "
            "trials again.",
            err=True,
        )
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
@click.argument("path", type=click.Path(path_type=Path), default="audit.toml")
def init(path: Path) -> None:
    """Write an audit file to start from.

    It goes to PATH, audit.toml if not given, is commented, and runs as it is.
    """
    try:
        write_new(path, TEMPLATE.read_bytes())
    except FileExistsError:
        raise UsageError(f"{path} exists and is left as it is; give another path, or move it away") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give a path that can be written") from None
    say(f"Wrote {path}. Run it with: unveil audit {path}")
