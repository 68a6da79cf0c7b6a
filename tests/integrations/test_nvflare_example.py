"""The example of NVFlare, from its job to the audit of what was recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="NVFlare is not installed here; make test-integrations tests with it")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "nvflare_filter"


def run(place: Path, *command: str) -> str:
    answer = subprocess.run(
        [sys.executable, *command], cwd=place, capture_output=True, text=True, timeout=400, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def test_pictures_of_the_recorded_rounds_come_back(tmp_path: Path) -> None:
    place = tmp_path / "example"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("__pycache__"))
    run(place, "job.py")
    *_, command = (line for line in (EXAMPLE / "job.py").read_text().splitlines() if line.strip().startswith("unveil "))
    out = run(place, "-m", *command.split(), "--json")
    trials: list[dict[str, Any]] = json.loads(out)["trials"]
    assert [trial["settings"]["client"] for trial in trials] == [
        f"site-{site}, round {number}" for number in (0, 1) for site in (1, 2)
    ]
    for trial in trials:
        assert trial["settings"]["obfuscation"] == "topk:density=0.1"
        outcome = trial["outcomes"]["attack"]
        found, blind = outcome["scores"]["psnr"], trial["blind"]["psnr"]
        assert sum(found) / len(found) > sum(blind) / len(blind) + 3
