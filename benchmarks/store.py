"""Results on the disk: one JSON file a benchmark, each result with where and with what it was made."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.frame import ROOT, Result, Results
from unveil.core.arithmetic import machine
from unveil.core.files import write_whole

FOLDER = Path(__file__).resolve().parent / "results"


class Store:
    """The results of one benchmark.

    Args:
        name: Name of the benchmark, and of its file in `benchmarks/results`.
        folder: Another folder, for tests.
    """

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        self.path = folder / f"{name}.json"
        self._kept: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def is_of_this_commit(self, key: str) -> bool:
        """Whether the result was made by the code that is checked out."""
        made = self._kept[key]["made"]
        return made is not None and made.get("commit") == commit_here()

    @property
    def results(self) -> Results:
        """Key -> result, in the order in which they were first made."""
        return {key: entry["result"] for key, entry in self._kept.items()}

    def put(self, key: str, result: Result) -> None:
        """Keep a result; it is on the disk when this returns."""
        self._kept[key] = {"made": circumstances(), "result": result}
        self._write()

    def forget(self, keys: Iterable[str]) -> None:
        """Drop results."""
        for key in keys:
            self._kept.pop(key, None)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f" {json.dumps(key)}: {json.dumps(entry)}" for key, entry in self._kept.items()]
        write_whole(self.path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def circumstances() -> dict[str, Any]:
    """Processor, threads, versions and commit."""
    return {
        **machine(torch.device("cpu")),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "commit": commit_here(),
    }


def commit_here() -> str | None:
    """The commit that is checked out; none outside a git clone."""
    ran = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return ran.stdout.strip() or None
