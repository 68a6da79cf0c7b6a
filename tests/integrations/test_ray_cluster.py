"""`unveil audit|advise --ray HOST:PORT` on a cluster of two nodes: what travels, a node that is gone, random kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("ray", reason="Ray is not installed here; make test-integrations tests with it")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]  # other people's

from benchmarks.ray_cluster import Cluster, cluster  # noqa: E402

from audits.parallel import result  # noqa: E402
from cli.test_killed_advice import SMALL  # noqa: E402
from heard import heard  # noqa: E402
from unveil.audits.results import read_trials  # noqa: E402

AUDIT = """
obfuscations = ["sign"]
seeds = [0, 1, 2, 3, 4, 5]
[[client]]
name = "clinic"
images = "pictures"
size = 16
batch = 2
[[attack]]
name = "rog"
steps = 60
"""
UNVEIL = (sys.executable, "-m", "unveil")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster(1, 1) as found:
        yield found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an audit file and its pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    (tmp_path / "audit.toml").write_text(AUDIT, encoding="utf-8")
    for number in range(4):
        (tmp_path / "pictures" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (60 * number, 0, 90)).save(tmp_path / "pictures" / f"{number % 2}" / f"{number}.png")
    return tmp_path


def results(folder: str) -> list[str]:
    """All of the trials but their times, in an order of their own: workers end theirs in any."""
    return sorted(repr(result(trial)) for trial in read_trials(Path(folder)))


def alone(*args: str, code: int = 0) -> None:
    """Run a command without a cluster."""
    done = subprocess.run([*UNVEIL, *args], capture_output=True, encoding="utf-8", timeout=200, check=False)
    assert done.returncode == code, done.stderr


def begun(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*UNVEIL, *args], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, encoding="utf-8", bufsize=1
    )


def test_workers_need_no_pictures_of_their_own(here: Path, nodes: Cluster) -> None:
    alone("audit", "audit.toml", "--out", "alone")
    running = begun("audit", "audit.toml", "--out", "out", "--ray", nodes.address)
    heard(running, "client clinic: before the attack")  # it has read them, and is about to connect
    shutil.rmtree(here / "pictures")
    _, err = running.communicate(timeout=200)
    assert running.returncode == 0, err
    assert results("out") == results("alone")


def test_an_advice_is_that_of_one_process(here: Path, nodes: Cluster) -> None:
    Path("advise.toml").write_text(SMALL.replace("rounds = 2", "rounds = 1"), encoding="utf-8")
    alone("advise", "advise.toml", "--out", "alone", code=1)  # no setting meets the target
    alone("advise", "advise.toml", "--out", "out", "--ray", nodes.address, code=1)

    def found(folder: str) -> Any:
        return json.loads(Path(folder, "advice.json").read_text(encoding="utf-8"))

    assert found("out") == found("alone")
    assert results("out/audits") == results("alone/audits")


def test_the_trial_of_a_node_that_is_gone_is_run_on_another(here: Path) -> None:
    alone("audit", "audit.toml", "--out", "alone")
    with cluster(1, 1) as both:
        running = begun("audit", "audit.toml", "--out", "out", "--ray", both.address)
        said = heard(running, "[2/12]")
        assert both.actors(1)
        for process in both.processes(1):
            os.kill(process, signal.SIGKILL)
        _, err = running.communicate(timeout=200)
    assert running.returncode == 0, said + err
    assert "a worker process ended (Actor" in said + err
    assert results("out") == results("alone")


def test_random_kills_lose_nothing(here: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from benchmarks.hostile import ray_kills\n"
        "print(json.dumps(ray_kills.run(Path(sys.argv[1]), kills=3, seed=1, seeds=3, steps=30)))"
    )
    place = here / "kills"
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)], capture_output=True, encoding="utf-8", timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["workers"] + found["drivers"] == 3
    assert found["lost"] == 0
    assert found["equal"] == found["audits"] >= 1
