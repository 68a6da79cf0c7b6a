"""A module of the user's, written into an empty folder that is the current one."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module; returns its name, another one each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    written: list[str] = []

    def write(body: str) -> str:
        name = f"mine_{tmp_path.name}_{len(written)}".replace("-", "_").replace("[", "_").replace("]", "_")
        (tmp_path / f"{name}.py").write_text(
            "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"
            "def flat(classes, width=8, pixels=768):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.Tanh(), nn.Linear(width, classes))\n"
            + textwrap.dedent(body)
        )
        written.append(name)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name in written:
            del sys.modules[name]
