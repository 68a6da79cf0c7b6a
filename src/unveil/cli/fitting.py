"""The command `fit`: train an enhancer."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import click

from unveil.cli.options import SEED, field_option
from unveil.cli.presenting import INTERRUPTED
from unveil.cli.terminal import console, say
from unveil.fitting.plan import Fit, Setting

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("sources", metavar="PICTURES...", nargs=-1, required=True, type=FILE)
@click.option("--setting", type=click.Choice(get_args(Setting)), default="faithful", show_default=True)
@click.option("--out", type=FILE, help="File of weights.  [default: WORK/SETTING.safetensors]")
@click.option("--work", type=FILE, default="fits", show_default=True, help="Pairs, checkpoints.")
@field_option(Fit, "clients", help="Simulated clients of 16 pictures, attacked for pairs.")
@field_option(Fit, "steps", help="Training steps.")
@field_option(Fit, "lr", help="Learning rate.")
@field_option(Fit, "seed", type=SEED)
@field_option(
    Fit, "evaluate", type=FILE, help="Pictures that must not be among them; give it once for each folder or file."
)
@field_option(Fit, "leave_out", help="Train without the pictures that are for evaluation too.")
@field_option(Fit, "begin", type=FILE, help="Weights to go on from.")
@field_option(Fit, "pairs", type=FILE, help="Pairs of an earlier training, used too.")
@field_option(Fit, "size", help="Height and width of a folder's pictures.")
@field_option(Fit, "licence", help="Of the pictures, for the model card.")
@field_option(Fit, "lpips_weights", type=FILE, help="AlexNet, for semantic; or: download.")
def fit(sources: tuple[Path, ...], work: Path, out: Path | None, setting: str, **settings: Any) -> None:
    """Train an enhancer on PICTURES.

    Each is a folder or an .npz of encoded pictures. The setting semantic needs classes: a sub-folder each. Interrupted
    and started again, the training goes on. Needs some hours on two cores.
    """
    from unveil.fitting.workers import terminated_as_interrupted

    click.get_current_context().with_resource(terminated_as_interrupted())
    from unveil.cli.progress import fitting_shown
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
