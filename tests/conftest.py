"""What many tests share: a small client, a user's own module, and where the research data lies if it is there."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

if TYPE_CHECKING:
    from torch import Generator

# torch and unveil are imported by fixtures, because one process of `pytest -n` runs no test and the others wait for it.
RESEARCH_WEIGHTS = Path(__file__).resolve().parents[1] / "research-weights" / "unveil_research_weights"
os.environ.setdefault("UNVEIL_WEIGHTS", str(RESEARCH_WEIGHTS))


@pytest.fixture(scope="session", autouse=True)
def _cheap() -> None:
    import torch

    from typechecker import leave_unchecked

    torch.set_num_threads(1)
    leave_unchecked()


def _seed(name: str) -> None:
    """What torch draws without a generator depends on the name alone, not on which tests ran before in this process."""
    import torch

    from seeds import shifted

    torch.manual_seed(shifted(crc32(name.encode())))


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    _seed(fixturedef.argname)


def pytest_runtest_call(item: pytest.Item) -> None:
    _seed(item.name)


@pytest.fixture
def generator() -> Generator:
    from seeds import seeded

    return seeded(0)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process; returns exit code, standard output and standard error."""
    from unveil.cli.app import main

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(args)
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, out, err

    return run


@pytest.fixture(scope="session")
def anchor() -> Path:
    """The published batch; research data that is not part of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "anchors" / "rog"
    folder = Path(os.environ.get("UNVEIL_ANCHOR", default))
    if not (folder / "anchor.json").is_file():
        pytest.skip("the published batch is not here; set UNVEIL_ANCHOR to its folder")
    return folder


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
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
