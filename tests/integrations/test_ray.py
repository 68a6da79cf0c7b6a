"""Trials on a Ray cluster of this machine: the results of a serial run, whatever is killed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

os.environ.setdefault("RAY_AUTH_MODE", "token")  # as the command does before it imports Ray
pytest.importorskip("ray", reason="Ray is not installed here; make test-integrations tests with it")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

from audits.parallel import DEATHS, mortal, result, searching  # noqa: E402
from cli.test_app import AUDIT  # noqa: E402
from heard import heard  # noqa: E402
from unveil.audits.progress import AuditProgress  # noqa: E402
from unveil.audits.results import read_trials  # noqa: E402
from unveil.audits.running import run  # noqa: E402
from unveil.audits.workers import Workers  # noqa: E402
from unveil.core.errors import UsageError  # noqa: E402
from unveil.core.files import MIB  # noqa: E402
from unveil.core.ray_loopback import is_on_loopback_alone, own_address  # noqa: E402
from unveil.core.ray_workers import RayTeam, connected  # noqa: E402

ONE = partial(RayTeam, address="auto", cpus=1, gpus=0.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected("auto") as resources:
        assert resources["CPU"] >= 1
        yield


@pytest.mark.usefixtures("cluster")
def test_scores_pictures_and_order_are_those_of_a_serial_run(tmp_path: Path) -> None:
    audit = searching()
    alone = run(audit, tmp_path / "alone")
    executor = Workers(make=searching, count=2, threads=1, team=ONE, hears_steps=False)
    shared = run(audit, tmp_path / "shared", executor=executor)
    assert [result(trial) for trial in shared] == [result(trial) for trial in alone]  # checksums of pictures too
    assert all(trial.checksums for trial in shared)


@pytest.mark.usefixtures("cluster")
def test_a_trial_whose_actor_is_killed_is_tried_once_more_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    executor = Workers(make=mortal, count=1, threads=1, team=ONE, hears_steps=False)
    DEATHS.write_text("1011")  # the first trial once, the second twice
    says = r"client, none, mortal, seed 1: a worker process ended \(Actor.*\).* in each of 2 tries; .* are kept$"
    with pytest.raises(UsageError, match=says):
        run(mortal(), tmp_path / "out", executor=executor)
    assert "client, none, mortal, seed 0: a worker process ended (Actor" in caplog.text
    assert "about to attack" in caplog.text  # said in the actor
    assert [trial.seed for trial in read_trials(tmp_path / "out")] == [0]


@pytest.mark.usefixtures("cluster")
def test_what_workers_are_given_lies_in_the_store_once_and_a_job_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, give = list[int](), RayTeam.give

    def counted(team: RayTeam, worker: object, job: object) -> None:
        jobs.append(len(pickle.dumps(job)))
        give(team, worker, job)

    monkeypatch.setattr(RayTeam, "give", counted)
    pictures = {"pictures": torch.zeros(1 << 24)}  # 64 MiB
    before, used = free_in_store(), list[float]()

    def look(progress: AuditProgress) -> None:
        if progress.done == progress.total:  # both workers have what they need
            while not used or not used[-1]:  # Ray tells it now and then
                time.sleep(0.05)
                used.append(before - free_in_store())

    executor = Workers(make=searching, count=2, threads=1, team=ONE, hears_steps=False, reads=pictures)
    run(searching(), tmp_path / "out", look, executor=executor)
    assert 1 <= used[-1] / (64 * MIB) < 1.1
    assert len(jobs) == 4
    assert max(jobs) < 100


def free_in_store() -> float:
    """Free bytes of the object stores of all nodes."""
    import ray

    return float(ray.available_resources()["object_store_memory"])


@pytest.mark.usefixtures("cluster")
def test_a_cluster_of_this_audit_alone_listens_on_the_loopback_alone() -> None:
    import ray

    (node,) = ray.nodes()
    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    assert host == node["NodeManagerAddress"] == "127.0.0.1"
    if own_address() is not None:  # else there is nothing beside the loopback
        for listening in (int(port), node["NodeManagerPort"], node["ObjectManagerPort"]):
            assert is_on_loopback_alone(host, listening)


@pytest.mark.usefixtures("cluster")
def test_another_token_is_refused(tmp_path: Path) -> None:
    import ray

    (tmp_path / "audit.toml").write_text(AUDIT, encoding="utf-8")
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "unveil", "audit", "audit.toml", "--ray", address]
    environment = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}
    answer = subprocess.run(
        command, cwd=tmp_path, capture_output=True, encoding="utf-8", env=environment, timeout=200, check=False
    )
    assert answer.returncode == 2
    assert f"Error: --ray {address}: no Ray cluster answers" in answer.stderr
    assert "token is missing or incorrect" in answer.stderr  # said by Ray
    assert not (tmp_path / "audits").exists()


def test_nothing_finished_is_lost_with_the_command_and_the_same_one_goes_on(tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text("seeds = [0, 1, 2, 3, 4, 5]" + AUDIT, encoding="utf-8")
    command = [sys.executable, "-m", "unveil", "audit", "audit.toml", "--out", "out", "--ray", "auto"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, encoding="utf-8", env=environment
    )
    heard(running, "[1/12]")
    running.send_signal(signal.SIGKILL)
    running.wait(60)
    kept = (tmp_path / "out" / "results.jsonl").read_bytes()
    assert kept.count(b"\n") >= 1
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", env=environment, timeout=200)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "results.jsonl").read_bytes().startswith(kept)
    alone = [*command[:-4], "--out", "alone"]
    subprocess.run(alone, cwd=tmp_path, check=True, capture_output=True, env=environment, timeout=200)

    def results(folder: str) -> list[str]:
        return sorted(repr(result(trial)) for trial in read_trials(tmp_path / folder))

    assert results("out") == results("alone")
