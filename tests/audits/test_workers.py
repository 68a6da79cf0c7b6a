"""Trials in worker processes: the results of a serial run, whatever happens to a worker."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audits.parallel import DEATHS, mortal, result, searching, started
from unveil.audits.executor import Serial
from unveil.audits.progress import AuditProgress, Board
from unveil.audits.results import read_trials, trial_key
from unveil.audits.running import run
from unveil.audits.task import Task
from unveil.audits.worker import Order, Trials, begin, elsewhere
from unveil.audits.workers import Workers, threads_of_each
from unveil.core.errors import UsageError
from unveil.core.ray_workers import Served
from unveil.core.reconstruction import Stop
from unveil.core.records import Trial
from unveil.core.watch import Progress
from unveil.core.workers import News, Work

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.mark.slow
def test_scores_pictures_and_order_are_those_of_a_serial_run(tmp_path: Path) -> None:
    audit = searching()
    alone = run(audit, tmp_path / "alone")
    seen: list[AuditProgress] = []
    executor = Workers(make=searching, count=2, threads=torch.get_num_threads())
    shared = run(audit, tmp_path / "shared", seen.append, executor=executor)
    assert [result(trial) for trial in shared] == [result(trial) for trial in alone]  # checksums of pictures too
    assert all(trial.checksums for trial in shared)
    assert {trial.settings["obfuscation"] for trial in read_trials(tmp_path / "shared")} == {"none", "sign"}
    assert [s.done for s in seen if s.trial is not None] == [1, 2, 3, 4]
    assert {s.total for s in seen} == {4}
    assert 1 <= max(s.running for s in seen) <= 2
    assert not multiprocessing.active_children()
    assert run(audit, tmp_path / "shared", executor=executor) == shared


@pytest.mark.slow
@posix
def test_a_trial_whose_worker_is_killed_is_tried_once_more_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    executor = Workers(make=mortal, count=1, threads=1)
    DEATHS.write_text("1011")  # the first trial once, the second twice
    says = r"client, none, mortal, seed 1: a worker process ended \(exit code -9\).* in each of 2 tries; .* are kept$"
    with pytest.raises(UsageError, match=says):
        run(mortal(), tmp_path / "out", executor=executor)
    assert "client, none, mortal, seed 0: a worker process ended (exit code -9)" in caplog.text
    assert "the trial is tried once more" in caplog.text
    assert "about to attack" in caplog.text  # said in the worker
    assert [trial.seed for trial in read_trials(tmp_path / "out")] == [0]
    assert not multiprocessing.active_children()


def an_order(**changes: object) -> Order:
    audit = searching()
    order = Order(
        make=searching,
        folder=str(Path.cwd()),
        arithmetic="auto",
        threads=torch.get_num_threads(),
        settings=audit.settings(),
        versions=Serial().versions(audit.device),
        watched=False,
    )
    return replace(order, **changes)


@pytest.mark.slow
def test_a_worker_refuses_an_audit_or_versions_that_are_not_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # a worker replaces it
    assert len(begin(an_order()).tasks) == 4
    with pytest.raises(UsageError, match=r"cannot open /nowhere \(No such file or directory\); on a cluster, every"):
        begin(an_order(folder="/nowhere"))
    order = an_order()
    other = {**order.settings, "clients": [{**order.settings["clients"][0], "weights": "0" * 12}]}
    with pytest.raises(UsageError, match=r"another setting than .*: clients\.0\.weights is 000000000000 there and"):
        begin(replace(order, settings=other))
    with pytest.raises(UsageError, match=r"another version than .*: torch is 1\.0 there and 2.* in the worker"):
        begin(replace(order, versions={**order.versions, "torch": "1.0"}))


class Broken(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("no such luck")


def test_an_error_of_a_users_network_is_told_as_a_serial_run_tells_it() -> None:
    task = Task(settings={}, seed=0, run=lambda _: Broken()(torch.ones(1)))
    says = r"the model failed during the audit, ZeroDivisionError: no such luck \(.*test_workers.py, line \d+\);"
    with pytest.raises(UsageError, match=says):
        Trials(tasks={"key": task}, order=an_order())("key", lambda _: None)


def packed(content: object) -> np.ndarray:
    return np.frombuffer(pickle.dumps(content), np.uint8)


def test_an_actor_answers_with_what_came_of_a_job() -> None:
    actor = Served(packed((started, 3)), sys.path)
    kind, content, sent = pickle.loads(actor.run(4))
    assert (kind, content, sent) == ("done", 12, ["a job of 4"])
    kind, content, sent = pickle.loads(actor.run(0))
    assert (kind, str(content), sent) == ("failed", "nothing to do", ["a job of 0"])
    kind, content, _ = pickle.loads(Served(packed((started, 0)), sys.path).run(4))
    assert (kind, str(content)) == ("failed", "no worker")


class Crowded:
    """A crew in this process: the first job of its first worker is lost, and there is no room for further workers.

    Args:
        workers: How many find room.
        later: Whether they find it only after they were asked for.
    """

    def __init__(self, start: Callable[[Any], Work], given: Any, *, workers: int, later: bool = False) -> None:
        self.work = Trials(tasks={trial_key(t.settings, t.seed): t for t in searching().tasks()}, order=given)
        self.room, self.lost, self.jobs = workers, False, deque[tuple[int, str]]()
        self.later, self.starting = later, deque[int]()

    def __enter__(self) -> Crowded:
        return self

    def __exit__(self, *error: object) -> None:
        self.room = 0

    def hire(self, number: int) -> list[int]:
        taken, self.room = min(number, self.room), self.room - min(number, self.room)
        self.starting.extend(range(taken) if self.later else ())
        return [] if self.later else list(range(taken))

    def give(self, worker: int, job: str) -> None:
        self.jobs.append((worker, job))

    def news(self) -> Iterator[News]:
        while self.jobs or self.starting:
            if self.starting:
                yield News(worker=self.starting.popleft(), kind="started", content=None)
                continue
            worker, job = self.jobs.popleft()
            if worker == 0 and not self.lost:
                self.lost = True
                yield News(worker=worker, kind="ended", content="a node is gone")
            else:
                yield News(worker=worker, kind="done", content=self.work(job, lambda _: None))


@pytest.mark.slow
def test_where_no_new_worker_finds_room_another_one_takes_the_trial(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two, late, one, late_one, none = (
        Workers(make=searching, count=2, threads=1, team=partial(Crowded, workers=workers, later=later))
        for workers, later in ((2, False), (2, True), (1, False), (1, True), (0, True))
    )
    for executor, place in ((two, "two"), (late, "late")):
        caplog.clear()
        assert [trial.seed for trial in run(searching(), tmp_path / place, executor=executor)] == [0, 1, 0, 1]
        assert "a worker process ended (a node is gone), as when memory runs out; the trial is tried" in caplog.text
    for executor in (one, late_one, none):
        with pytest.raises(UsageError, match="no worker process can be started for 4 of the trials; free some room"):
            run(searching(), tmp_path / "alone", executor=executor)


def test_threads_are_those_of_a_serial_run_where_they_are_set_and_shared_where_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of_each(workers) for workers in (1, 3, 8, 20)] == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert threads_of_each(3) == 8

    alike, fewer = (Workers(make=searching, count=3, threads=threads) for threads in (8, 2))
    audit = searching()
    assert [executor.versions(audit.device)["threads"] for executor in (alike, fewer)] == ["8", "2"]
    assert list(alike(audit, {}, None)) == []
    assert caplog.text == ""
    assert list(fewer(audit, {}, None)) == []
    assert "each of 3 workers computes with 2 of the 8 threads" in caplog.text
    assert "with OMP_NUM_THREADS=2 both compute alike" in caplog.text


def test_progress_adds_up_what_runs_at_once() -> None:
    seen: list[AuditProgress] = []
    trial = Trial(
        settings={"obfuscation": "a"},
        family="none",
        seed=0,
        wire_bits=1,
        raw_bits=1,
        iterations=1,
        peak_mib=None,
        stop=Stop.FINISHED,
        losses=[],
        blind={},
        outcomes={},
    )
    tasks = {key: Task(settings={"obfuscation": key}, seed=0, run=lambda _: None) for key in "abc"}
    board = Board(tasks, done=5, send=seen.append)
    board.report("a", None)
    board.report("b", None)
    board.report("a", Progress(step=3, steps=4, loss=0.0, images=elsewhere))
    board.report("b", Progress(step=1, steps=2, loss=0.0, images=elsewhere))
    board.end("a", trial)
    assert [(s.done, s.running, s.under_way) for s in seen] == [
        (5, 1, 0.0),
        (5, 2, 0.0),
        (5, 2, 0.75),
        (5, 2, 1.25),
        (6, 1, 0.5),
    ]
    assert {s.total for s in seen} == {8}
    with pytest.raises(UsageError, match="stay in its worker process"):
        elsewhere()
