"""The command that joins results folders: `merge`."""

from __future__ import annotations

from pathlib import Path

import click

from unveil.cli.presenting import present
from unveil.cli.terminal import say


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Results folder of all of them.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
def merge(folders: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Join the results folders DIR... of one audit, such as those of `unveil audit --shard`.

    Pictures are copied and compared with their checksums. Folders of different audits are refused, and so is a trial
    that has different scores in two of them.
    """
    from unveil.audits.folder_settings import read_settings
    from unveil.audits.merging import FIX
    from unveil.audits.merging import merge as merged
    from unveil.gate.completeness import missing_trials
    from unveil.report.formatting import count

    trials = merged(folders, out)
    present(out, trials, as_json=as_json)
    if missing := len(missing_trials(read_settings(out, fix=FIX), trials)):
        say(
            f"{count(missing, 'trial')} of the audit {'is' if missing == 1 else 'are'} in none of the folders; "
            "`unveil audit` with this --out runs what is missing.",
            err=True,
        )
