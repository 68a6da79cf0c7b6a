"""`unveil audit --workers`: networks of the user's own, recorded updates, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audits.recorded.recordings import AVERAGED, MODEL, recorded, simulated
from cli.test_app import AUDIT, Call, call
from unveil.audits.results import read_trials
from unveil.clients.training import FedAvg

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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_keeps_what_is_finished_and_leaves_no_worker(tmp_path: Path) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("this suite was started with SIGINT ignored, and children inherit that")
    endless = AUDIT.replace('obfuscations = ["sign"]\n', "") + '\n[[attack]]\nname = "rog"\nsteps = 1000000\n'
    (tmp_path / "audit.toml").write_text(endless, encoding="utf-8")
    running = subprocess.Popen(
        [sys.executable, "-m", "unveil", "audit", "audit.toml", "--out", "out", "--workers", "1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert running.stderr is not None
    try:
        assert running.stderr.readline().startswith("client client: before the attack")
        assert running.stderr.readline().startswith("[1/2] ")
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does, to the workers too
        # This ends when nobody holds the other end of the pipe any more, the workers neither.
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()
    kept = "Interrupted: 1 of 2 trials are kept in out; run the same command again to go on, "
    assert (running.returncode, err) == (130, kept + "or `unveil report out` for a report of them.\n")
    assert (tmp_path / "out" / "results.jsonl").read_bytes().count(b"\n") == 1
