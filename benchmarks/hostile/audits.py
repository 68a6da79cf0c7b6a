"""The tiny audit that is killed and cut off, and what must be true of its results folder afterwards."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from unveil.audits.results import RESULTS, read_trials, trial_key
from unveil.audits.trial_pictures import is_whole, named_pictures
from unveil.core.records import Trial

AUDIT = """
obfuscations = ["sign", "topk:density=0.1"]
seeds = [0, 1]
controls = ["labels only"]
[[client]]
name = "client"
model = "tiny_net:net"
size = 16
batch = 2
[[attack]]
name = "rog"
steps = 2
"""
NET = """
from torch import nn

def net(image_shape, classes):
    c, h, w = image_shape
    body = [nn.Conv2d(c, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(4 * (h // 4) * (w // 4), classes))
"""


def set_up(folder: Path) -> None:
    """Write the audit file and its network into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.toml").write_text(AUDIT)
    (folder / "tiny_net.py").write_text(NET)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a results folder holds.

    Args:
        trials: Key -> trial, without what differs between two runs of the same.
        pictures: Path -> SHA-256.
        lines: Number of complete lines.
    """

    trials: dict[str, Trial]
    pictures: dict[str, str]
    lines: int


def kept(folder: Path) -> Kept:
    """Read a results folder; an absent one holds nothing."""
    if not (folder / RESULTS).exists():
        return Kept({}, {}, 0)
    pictures = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }
    trials = {trial_key(trial.settings, trial.seed): _plain(trial) for trial in read_trials(folder)}
    return Kept(trials, pictures, (folder / RESULTS).read_bytes().count(b"\n"))


def wrong(folder: Path, reference: Kept, *, finished: bool, in_order: bool = True) -> list[str]:
    """What is wrong with a results folder, compared with one that nothing happened to.

    Args:
        folder: The results folder.
        reference: That of the same audit without interruption.
        finished: Whether its audit ended without an error, so that everything must be there.
        in_order: Whether trials ran one after the other, so that they must be kept in that order.
    """
    now, found = kept(folder), []
    order: Callable[[Iterable[str]], list[str]] = list if in_order else sorted
    for key, trial in now.trials.items():
        if trial != reference.trials.get(key):
            found.append(f"trial {key} differs")
        if not is_whole(folder, trial):
            found.append(f"pictures of trial {key} are lost")
        found += [
            f"{path} differs" for path in named_pictures(trial) if now.pictures.get(path) != reference.pictures[path]
        ]
    if finished:
        if order(now.trials) != order(reference.trials):
            found.append(f"{len(now.trials)} of {len(reference.trials)} trials")
        if now.pictures != reference.pictures:
            found.append("other pictures")
        if not (folder / "report.html").is_file():
            found.append("no report")
        found += [f"{path.name} is left over" for path in folder.rglob("*.part") if path.parent != folder]
    return found


def _plain(trial: Trial) -> Trial:
    outcomes = {name: dataclasses.replace(outcome, seconds=0.0) for name, outcome in trial.outcomes.items()}
    return dataclasses.replace(trial, outcomes=outcomes, peak_mib=None)
