"""What trains a federation: which one, and what is said of it. Flower itself is in tests/integrations."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from advice.made import advice, federation
from unveil.advice import advising, folder
from unveil.advice.advising import advise
from unveil.advice.estimate import estimate
from unveil.advice.export import as_data
from unveil.advice.flower import engine
from unveil.advice.flower import trainer as flower_trainer
from unveil.advice.page import page
from unveil.advice.round import Rounds, in_turn
from unveil.advice.trainers import PLAIN, Trainer, trainer_named
from unveil.advice.training import train
from unveil.cli.advising import _say_trainer
from unveil.core import ray_workers
from unveil.core.errors import UsageError
from unveil.core.ray_loopback import VARIABLE
from unveil.obfuscations import parse

FLOWER, FIX = "Flower 1.42.0 on Ray 2.55.1", "pip install 'unveil[flower]', or set trainer = \"plain\""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None, str | None], None]:
    """Pretend that versions of Flower and Ray are installed, or that one is not."""

    def pretend(flower: str | None, ray: str | None) -> None:
        def version(name: str) -> str:
            found = {"flwr": flower, "ray": ray}[name]
            if found is None:
                raise PackageNotFoundError(name)
            return found

        monkeypatch.setattr(flower_trainer, "installed", version)
        monkeypatch.setattr(flower_trainer, "version", partial(version, "flwr"))

    return pretend


@pytest.mark.parametrize(
    ("flower", "ray", "note", "error"),
    [
        (None, None, "", "Flower is not installed"),
        ("1.27.9", "2.55.1", "Flower 1.27.9 is too old, 1.28 or newer is needed", None),
        ("1.42.0", None, "Flower 1.42.0 is installed without Ray, on which its simulation runs", None),
    ],
)
def test_without_the_engine_a_plain_loop_trains_and_flower_cannot_be_asked_for(
    installed: Any, flower: str | None, ray: str | None, note: str, error: str | None
) -> None:
    installed(flower, ray)
    found = trainer_named("auto")
    assert (found.name, found.note, found.ready) == (PLAIN.name, note, PLAIN.ready)
    assert trainer_named("plain") is PLAIN
    with pytest.raises(UsageError) as refused:
        trainer_named("flower")
    assert str(refused.value) == f"federation.trainer: {error or note}; {FIX} to train without it"


@pytest.mark.parametrize("flower", ["1.28.0", "1.42.0", "2.0", "1.100.1"])
def test_where_the_engine_is_installed_it_trains(installed: Any, flower: str) -> None:
    installed(flower, "2.55.1")
    for name in ("auto", "flower"):
        found = trainer_named(name)  # type: ignore[arg-type]
        assert (found.name, found.note) == (f"Flower {flower} on Ray 2.55.1", "")
    assert trainer_named("plain") is PLAIN


@pytest.mark.parametrize(
    ("processors", "threads", "at_once"), [(8, 1, 2), (8, 4, 2), (8, 8, 1), (1, 1, 1), (2, 4, 1), (7, 4, 1)]
)
def test_as_many_clients_train_at_once_as_find_processors(
    monkeypatch: pytest.MonkeyPatch, processors: int, threads: int, at_once: int
) -> None:
    monkeypatch.setattr(flower_trainer, "processors", lambda: processors)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert flower_trainer.clients_at_once(federation()) == at_once  # of two


def other(begun: list[str], *, processes: int = 2, **changes: Any) -> Trainer:
    """A trainer of this process that says when it starts and stops."""

    @contextmanager
    def ready(asked: Any, obfuscation: Any) -> Iterator[Callable[[int], Rounds]]:
        begun.append(f"start {obfuscation}")
        yield partial(in_turn, asked, obfuscation)
        begun.append("stop")

    return replace(PLAIN, name=FLOWER, ready=ready, processes=lambda asked: processes, **changes)


def test_a_trainer_starts_once_for_all_seeds_of_a_setting_and_not_for_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advising, "audited", lambda *_, **__: advice().baseline.leakage)
    begun: list[str] = []
    question = replace(advice(candidates=["fp16"]).question, federation=federation(seeds=(0, 1)))
    kept = replace(train(question.federation, parse("none"), seed=0), trainer=PLAIN.name)
    folder.keep(tmp_path, folder.key_of(question.federation, "none", 0), kept)
    question = replace(question, trainer=other(begun))
    found = advise(question, tmp_path)
    assert begun == ["start none", "stop", "start fp16", "stop"]
    assert [run.trainer for run in found.baseline.runs] == [PLAIN.name, FLOWER]
    assert found.trainers == (PLAIN.name, FLOWER)
    assert as_data(found)["assessments"][1]["trained_by"] == [FLOWER, FLOWER]
    assert f"{PLAIN.name} and {FLOWER}" in page(found)
    again = advise(question, tmp_path)
    assert len(begun) == 4
    assert again.trainers == found.trainers


def test_a_training_that_was_kept_before_trainings_said_by_whom_is_one_of_the_plain_loop(tmp_path: Path) -> None:
    run = train(federation(), parse("none"), seed=0)
    folder.keep(tmp_path, "key", run)
    path = tmp_path / "federations" / "key.safetensors"
    path.write_bytes(path.read_bytes().replace(b'\\"trainer\\": \\"\\"', b'\\"trained\\": \\"\\"'))
    found = folder.kept(tmp_path, "key")
    assert found is not None
    assert found.trainer == "plain loop of unveil"


def test_an_estimate_counts_the_start_the_second_round_and_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unveil.audits.profiling._reset_peak", lambda device: True)
    monkeypatch.setattr("unveil.audits.profiling._peak_mib", lambda device: 100.0)
    seconds = iter([0.0, 3.0, 20.0, 20.0, 22.0, 25.0])  # begun; a round of 17, and one of 2; stopped
    begun: list[str] = []
    question = replace(advice(candidates=["fp16"]).question, trainer=other(begun, processes=4))
    found = estimate(question, of_run=lambda client, attack: 8.0, clock=lambda: next(seconds))
    assert found.baseline == 25 + 2 * (3 - 2) + 3 * 32  # three rounds, of which two were timed; attacks
    assert found.mib == pytest.approx(5 * 100)
    assert begun == ["start none", "stop"]


def test_it_is_said_before_the_start_who_trains(capsys: pytest.CaptureFixture[str]) -> None:
    question = advice().question
    _say_trainer(question)
    assert capsys.readouterr().err == ""
    _say_trainer(replace(question, trainer=replace(PLAIN, note="Flower 1.27 is too old")))
    assert capsys.readouterr().err == "Flower 1.27 is too old, so a plain loop trains the federation.\n"
    _say_trainer(replace(question, trainer=other([])))
    assert capsys.readouterr().err.startswith(f"{FLOWER} trains the federation, 2 clients at a time; with trainer = ")


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that stands for Ray, which does nothing."""
    for name in (VARIABLE, "FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    ray = SimpleNamespace(
        stopped=0,
        init=lambda **_: None,
        is_initialized=lambda: False,
        util=SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1"),
    )
    ray.shutdown = lambda: setattr(ray, "stopped", ray.stopped + 1)
    constants = SimpleNamespace(ray_constants=SimpleNamespace(ENABLE_RAY_CLUSTER=True))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray._private", constants)
    return ray


def slow(**options: Any) -> None:
    raise Exception("The current node timed out during startup.\nMore of it.")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"init": slow}, r"Ray does not start \(The current node timed out during startup.\)"),
        ({"is_initialized": lambda: True}, "this process is connected to a Ray cluster already"),
        (
            {"util": SimpleNamespace(get_node_ip_address=lambda: "192.0.2.2")},
            'this Ray would listen beyond this machine; set trainer = "plain"',
        ),
    ],
)
def test_a_ray_that_cannot_be_used_is_one_sentence(fake_ray: Any, changes: dict[str, Any], says: str) -> None:
    vars(fake_ray).update(changes)
    with pytest.raises(UsageError, match=f"^Flower's simulation: {says}"), engine.local_ray(1):
        raise AssertionError("it was started")
    assert fake_ray.stopped == ("is_initialized" not in changes)


def test_ray_is_started_here_alone_and_sigterm_ends_the_command_as_before(fake_ray: Any) -> None:
    before, given = signal.getsignal(signal.SIGTERM), dict[str, Any]()

    def init(**options: Any) -> None:
        given.update(options, clusters=os.environ[VARIABLE], reports=os.environ["FLWR_TELEMETRY_ENABLED"])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    fake_ray.init = init
    with engine.local_ray(3):
        assert signal.getsignal(signal.SIGTERM) == before
        assert not fake_ray.stopped
    assert fake_ray.stopped
    assert (given["address"], given["num_cpus"], given["include_dashboard"]) == ("local", 3, False)
    assert (given["clusters"], given["reports"]) == ("0", "0")


def test_a_cluster_whose_node_takes_too_long_to_start_is_one_sentence(fake_ray: Any, monkeypatch: Any) -> None:
    fake_ray.init = slow
    monkeypatch.setattr(ray_workers, "version", lambda name: "2.55.1")
    says = r"--ray auto: no Ray cluster answers \(The current node timed out during startup\)"
    with pytest.raises(UsageError, match=says), ray_workers.connected("auto"):
        raise AssertionError("it was started")
