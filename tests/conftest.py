"""What many tests share: a small client, a user's own module, and where the research data lies if it is there."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Generator, nn

from seeds import seeded, shifted
from unveil.core import Batch, Update
from unveil.training import FedSGD

torch.set_num_threads(1)


class SmallNet(nn.Module):
    """A convolution and two Linear layers: small enough for float64 and finite differences."""

    def __init__(self, classes: int = 10, size: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Flatten())
        self.hidden = nn.Linear(4 * size * size, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(self.features(x))))


def small_client(*, seed: int = 0, n: int = 4, size: int = 8, classes: int = 10) -> tuple[nn.Module, Batch]:
    """A net and a batch with distinct labels, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(shifted(seed))
        model = SmallNet(classes, size)
    generator = seeded(seed)
    images = torch.rand((n, 3, size, size), generator=generator)
    return model, Batch(images, torch.randperm(classes, generator=generator)[:n])


def small_update(*, seed: int = 0) -> Update:
    """The gradient of `small_client`."""
    model, batch = small_client(seed=seed)
    return Update(FedSGD()(model, batch))


@pytest.fixture
def generator() -> Generator:
    return seeded(0)


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
