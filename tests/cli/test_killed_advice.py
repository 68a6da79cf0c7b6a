"""An advice that is killed and started again, and one whose trials run in workers: the answer of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from audits.parallel import result
from cli import killed_advice
from unveil.advice import estimate
from unveil.advice.estimate import Estimate
from unveil.audits.results import read_trials
from unveil.audits.workers import Workers
from unveil.cli import executing
from unveil.cli.described import DescribedUpdates
from unveil.core.errors import UsageError
from unveil.core.reads import Reads
from unveil.core.workers import News, Work

Call = Callable[..., tuple[int, str, str]]

SMALL = """
target = "psnr.worst <= 5"
candidates = ["fp16"]
attacks = ["inverting_gradients:steps=2"]
[federation]
size = 16
clients = 2
batch = 2
rounds = 2
training = "fedsgd"
server_lr = 0.1
test = 20
"""


def found(folder: Path) -> tuple[Any, list[Any]]:
    """What was found, and all of the trials but their times, in the order in which they were kept."""
    return json.loads((folder / "advice.json").read_text()), [result(one) for one in read_trials(folder / "audits")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_at_any_point_it_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    (tmp_path / "advise.toml").write_text(SMALL)
    script = subprocess.run(
        [sys.executable, killed_advice.__file__],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    # undisturbed, by SIGKILL, by SIGTERM and by Ctrl-C, twice; then to the end: no setting meets the target
    assert script.stdout.splitlines()[-1] == "1 -9 -15 130 -9 -15 130 1"
    assert found(tmp_path / "killed") == found(tmp_path / "whole")
    kept = set[str]()
    for line in (tmp_path / "log").read_text().splitlines():
        word, _, what = line.partition(" ")
        assert what not in kept, line
        kept |= {what} if word == "kept" else set()
    assert len(kept) == 2 + 10  # a training of each of two settings; the bare updates of the start are shared


class Here:
    """A crew of one worker in this process."""

    def __init__(self, start: Callable[[Any], Work], given: Any) -> None:
        self.start, self.given, self.jobs = start, given, list[Any]()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def hire(self, number: int) -> list[int]:
        return [0]

    def give(self, worker: int, job: Any) -> None:
        self.jobs.append(job)

    def news(self) -> Iterator[News]:
        work = self.start(self.given)
        while self.jobs:
            yield News(worker=0, kind="done", content=work(self.jobs.pop(0), lambda _: None))


@pytest.mark.slow
def test_workers_make_the_same_updates_and_find_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # a worker replaces it
    monkeypatch.setattr(estimate, "estimate", lambda question, **_: Estimate(baseline=1, setting=1, settings=1))
    Path("advise.toml").write_text(SMALL.replace("rounds = 2", "rounds = 1"))
    assert command("advise", "advise.toml", "--out", "alone")[0] == 1
    asked: list[dict[str, object]] = []
    given: list[DescribedUpdates] = []

    @dataclass(frozen=True, kw_only=True)
    class HereAlone(executing.Processes):
        def executor(self, make: DescribedUpdates, reads: Reads) -> Workers:
            given.append(make)
            return Workers(make=make, count=1, threads=self.threads, team=Here, reads=reads)

    def here(**options: object) -> HereAlone:
        asked.append(options)
        return HereAlone(count=2, threads=torch.get_num_threads())

    monkeypatch.setattr(executing, "processes_for", here)
    for place, options in {"shared": ("--workers", "2"), "cluster": ("--ray", "auto")}.items():
        assert command("advise", "advise.toml", "--out", place, *options)[0] == 1
        assert found(Path(place)) == found(Path("alone"))
    options = {"workers": 2, "ray": None, "stays": True}
    assert asked == [options, {**options, "workers": None, "ray": "auto"}]  # once for all settings
    assert [made.obfuscation for made in given] == ["none", "fp16"] * 2
    with pytest.raises(UsageError, match="nowhere has no training of this federation through fp16; leave the folder"):
        DescribedUpdates(**{**vars(given[1]), "folder": Path("nowhere")})()
