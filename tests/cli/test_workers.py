"""`unveil audit --workers`: networks of the user's own, recorded updates, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from audits.recorded.recordings import AVERAGED, MODEL, recorded, simulated
from cli.test_app import AUDIT, Call, call
from heard import heard, interruptible
from unveil.audits.results import read_trials
from unveil.clients.training import FedAvg
from unveil.core import ray_workers

__all__ = ["call"]

OWN = """
from torch import nn

class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.body, self.scale = nn.Sequential(nn.Flatten(), nn.Linear(768, 20), nn.Tanh(), nn.Linear(20, 14)), scale

    def forward(self, x):
        return self.scale(self.body(x))

def with_a_function_that_cannot_be_pickled():
    return Scaled(lambda x: 2 * x)
"""


@pytest.mark.slow
def test_a_network_beside_the_audit_file_that_cannot_be_pickled(call: Call) -> None:
    Path("sub").mkdir()
    Path("sub", "own_of_workers.py").write_text(OWN, encoding="utf-8")
    model = 'model = "own_of_workers:with_a_function_that_cannot_be_pickled"\n'
    Path("sub", "audit.toml").write_text(AUDIT.replace("size = 16\n", "size = 16\n" + model), encoding="utf-8")
    answer = call("audit", "sub/audit.toml", "--workers", "1")
    assert answer.code == 0
    assert [line[:5] for line in answer.err.splitlines() if line.startswith("[")] == ["[1/2]", "[2/2]"]
    assert "Report: audits/audit/report.html" in answer.out


@pytest.mark.slow
def test_a_recorded_update(call: Call, tmp_path: Path) -> None:
    update = recorded(tmp_path, simulated(FedAvg(steps=3, lr=0.05)), **AVERAGED, obfuscation="none", client="clinic")
    quick = ("--attack", "inverting_gradients:steps=2")
    answer = call("audit", update.name, "--model", MODEL, *quick, "--workers", "1")
    assert answer.code == 0
    assert len(read_trials(Path("audits/update"))) == 1


def test_workers_are_at_least_one(call: Call) -> None:
    answer = call("audit", "audit.toml", "--workers", "0")
    assert answer.code == 2
    assert "Invalid value for '--workers'" in answer.err


def absent(name: str) -> str:
    raise PackageNotFoundError(name)


@contextmanager
def tiny(address: str) -> Iterator[dict[str, float]]:
    """A cluster that has little."""
    yield {"CPU": 2.0}


@pytest.mark.slow
def test_a_cluster_that_is_not_there_or_has_no_room(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: str) -> str:
        answer = call("audit", "audit.toml", *args)
        assert answer.code == 2
        assert not Path("audits").exists()
        return answer.err.splitlines()[-1]

    assert refused("--gpus-per-trial", "1").startswith("Error: --gpus-per-trial is for --ray; add --ray auto, or leave")
    with monkeypatch.context() as patch:
        patch.setattr(ray_workers, "version", absent)
        assert refused("--ray", "auto").startswith("Error: --ray needs Ray; pip install 'unveil[ray]', or use --w")
        patch.setattr(ray_workers, "version", lambda name: "2.55.1")
        assert refused("--ray", "nowhere").startswith(
            "Error: --ray nowhere: expected HOST:PORT of a Ray cluster, or auto"
        )
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        says = f"Error: --ray 127.0.0.1:{port}: no Ray cluster answers (Connection refused); start one with `RAY_"
        assert refused("--ray", f"127.0.0.1:{port}").startswith(says)
    monkeypatch.setattr(ray_workers, "connected", tiny)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    says = "Error: --ray auto: a trial needs 1 processor and 0.5 GPU, and the cluster has 2 processors and 0 GPU; add"
    assert refused("--ray", "auto", "--gpus-per-trial", "0.5").startswith(says)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_keeps_what_is_finished_and_leaves_no_worker(tmp_path: Path) -> None:
    endless = AUDIT.replace('obfuscations = ["sign"]\n', "") + '\n[[attack]]\nname = "rog"\nsteps = 1000000\n'
    (tmp_path / "audit.toml").write_text(endless, encoding="utf-8")
    with interruptible():
        running = subprocess.Popen(
            [sys.executable, "-m", "unveil", "audit", "audit.toml", "--out", "out", "--workers", "1"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        heard(running, "[1/2] ")
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does, to the workers too
        # This ends when nobody holds the other end of the pipe any more, the workers neither.
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()
    kept = "Interrupted: 1 of 2 trials are kept in out; run the same command again to go on, "
    assert (running.returncode, err) == (130, kept + "or `unveil report out` for a report of them.\n")
    assert (tmp_path / "out" / "results.jsonl").read_bytes().count(b"\n") == 1
