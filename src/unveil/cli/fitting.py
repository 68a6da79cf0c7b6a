"""The command `fit`: train an enhancer."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from unveil.cli.options import SEED
from unveil.cli.presenting import INTERRUPTED
from unveil.cli.terminal import console, say


@click.command()
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
