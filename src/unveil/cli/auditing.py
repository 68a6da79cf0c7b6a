"""The commands that audit: `demo`, `audit` and `check`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unveil.cli.options import SEED, float32_option
from unveil.cli.presenting import results_folder, run_and_present, say_clients
from unveil.cli.terminal import say
from unveil.core.errors import UsageError, one_line

if TYPE_CHECKING:
    from unveil.audits.kept_pictures import Kept


@click.command()
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


@click.command()
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
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Run N trials at a time, each in a process of its own."
)
@click.option("--ray", metavar="ADDRESS", help="Run the trials on a Ray cluster: HOST:PORT, or auto.")
@click.option("--gpus-per-trial", type=click.FloatRange(0), metavar="N", help="With --ray: GPUs of each.  [default: 0]")
@click.option("--shard", metavar="I/N", help="Run part I of N parts of the trials; `unveil merge` joins the folders.")
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
    workers: int | None,
    ray: str | None,
    gpus_per_trial: float | None,
    shard: str | None,
    images: Kept | None,
    **recorded: Any,
) -> None:
    """Run the audit that FILE describes, or audit the recorded update FILE.

    FILE is TOML; `unveil init` writes one to start from. Interrupted and started again, the audit goes on. Each variant
    and each enhancer has a folder of its own. A recorded update, or a folder of them, needs --model.
    """
    from unveil.audits.memory import attacked_in, refuse_too_large
    from unveil.audits.shard import Shard
    from unveil.cli.described import DescribedAudit, DescribedRecordings
    from unveil.cli.executing import executor_for
    from unveil.cli.recorded import RecordedOptions, is_recorded
    from unveil.core.arithmetic import using
    from unveil.core.reads import Reads, sharing

    options, reads = RecordedOptions(**recorded), Reads()
    shares = sharing(None if ray is None else reads)
    part = None if shard is None else Shard.parse(shard)
    if is_recorded(file):
        others = {"--set": overrides, "--variant": variant, "--enhancer": enhancer}
        if wrong := [name for name, value in others.items() if value]:
            raise UsageError(f"{wrong[0]} is for audit files, and {file} is a recorded update; leave it out")
        recordings = DescribedRecordings(
            file=file, options=options, device=device, lpips_weights=lpips_weights, images=images or "blurred"
        )
        with using("float32" if float32 else None):
            with redirect_stdout(sys.stderr), shares:  # a user's model may print, and standard output is for results
                of_recordings = recordings()
                need = refuse_too_large(attacked_in(of_recordings), of_recordings.device, at_once=workers or 1)
            say(one_line(need.sentence), err=True)
            folder = out or results_folder(file, part=part)
            executor = executor_for(recordings, reads, workers=workers, ray=ray, gpus=gpus_per_trial)
            run_and_present(of_recordings, folder, part, as_json=as_json, author=author or "", executor=executor)
        return
    if options.given:
        raise UsageError(f"{options.given[0]} is for recorded updates, and {file} is an audit file; leave it out")
    description = DescribedAudit(
        file=file,
        overrides=overrides,
        variant=variant,
        device=device,
        lpips_weights=lpips_weights,
        enhancer=enhancer,
        images=images or "full",
    )
    with using("float32" if float32 else None):
        with redirect_stdout(sys.stderr), shares:
            described = description()
            need = refuse_too_large(attacked_in(described), described.device, at_once=workers or 1)
        say_clients(described.clients)
        say(one_line(need.sentence), err=True)
        named = described.enhancer if enhancer is not None else None
        folder = out or results_folder(file, variant=variant, enhancer=named, part=part)
        author = author or described.author
        executor = executor_for(description, reads, workers=workers, ray=ray, gpus=gpus_per_trial)
        run_and_present(described, folder, part, as_json=as_json, author=author, executor=executor)


@click.command()
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
