"""LPIPS: the published figures where the batch is at hand, else random weights; and files that are not its weights."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seeds import seeded, shifted
from unveil.clients.pictures import load_pictures
from unveil.core.errors import UsageError
from unveil.metrics import perceptual
from unveil.metrics.perceptual import CONVOLUTIONS, checksum, lpips

SHARED = Path(__file__).resolve().parents[3] / "shared"
ANCHOR, WEIGHTS = SHARED / "anchors" / "rog", SHARED / "data" / "models" / "lpips_alex.npz"
published = pytest.mark.skipif(
    not (WEIGHTS.is_file() and ANCHOR.is_dir()), reason="the published batch and LPIPS's weights are not here"
)


def folder(path: Path) -> torch.Tensor:
    pictures = [np.asarray(Image.open(path / f"{i}.png").convert("RGB")) for i in range(16)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.slow
@published
@pytest.mark.parametrize(("name", "figure"), [("qsgd16", 0.187), ("fedavg5", 0.218)])
def test_the_authors_pictures_have_the_authors_figures(name: str, figure: float) -> None:
    scores = lpips(WEIGHTS).score(folder(ANCHOR / "original"), folder(ANCHOR / name))
    assert float(scores.mean()) == pytest.approx(figure, abs=0.005)


@pytest.fixture(scope="module")
def net() -> Any:
    """The network with random weights."""
    import lpips as package

    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(shifted(0))
        return package.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()


def as_npz(net: Any, path: Path, **changed: Any) -> Path:
    state = net.state_dict()
    arrays = {}
    for i, number in enumerate(CONVOLUTIONS):
        for kind in ("weight", "bias"):
            arrays[f"conv{i}.{kind}"] = state[f"net.slice{i + 1}.{number}.{kind}"].numpy()
        arrays[f"lin{i}.weight"] = state[f"lin{i}.model.1.weight"].flatten().numpy()
    arrays |= changed
    np.savez(path / "weights.npz", **{name: array for name, array in arrays.items() if array is not None})
    return path / "weights.npz"


def as_torchvision(net: Any, path: Path) -> Path:
    state = {
        name.partition(".")[2].partition(".")[2]: tensor
        for name, tensor in net.state_dict().items()
        if name.startswith("net.")
    }
    torch.save({f"features.{name}": tensor for name, tensor in state.items()}, path / "alexnet.pth")
    return path / "alexnet.pth"


def as_whole(net: Any, path: Path) -> Path:
    torch.save(net.state_dict(), path / "lpips.pth")
    return path / "lpips.pth"


@pytest.fixture
def known(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "CHECKSUM", checksum(net))


@pytest.mark.slow
@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("written", [as_npz, as_torchvision, as_whole])
def test_every_format_gives_the_packages_own_scores(net: Any, tmp_path: Path, written: Any) -> None:
    pictures = load_pictures("builtin", count=4, size=64).images
    noisy = (pictures + 0.1 * torch.randn(pictures.shape, generator=seeded(0))).clamp(0, 1)
    scores = lpips(written(net, tmp_path)).score(pictures, noisy)
    with torch.no_grad():
        assert torch.allclose(scores, net(pictures, noisy, normalize=True).flatten().double())


@pytest.mark.slow
@pytest.mark.usefixtures("known")
def test_equal_pictures_are_at_no_distance_and_noise_adds_to_it(net: Any, tmp_path: Path) -> None:
    metric = lpips(as_npz(net, tmp_path))
    pictures = load_pictures("builtin", count=14, size=32).images
    pictures = torch.cat([pictures, pictures[:4]])  # more than are scored at a time
    assert metric.score(pictures, pictures).tolist() == [0.0] * 18
    noise = torch.randn(pictures.shape, generator=seeded(0))
    means = [float(metric.score(pictures, (pictures + s * noise).clamp(0, 1)).mean()) for s in (0.02, 0.05, 0.1, 0.2)]
    assert means == sorted(means)
    assert means[0] > 0
    grey = pictures.mean(1, keepdim=True)
    assert torch.equal(metric.score(grey, grey), torch.zeros(18, dtype=torch.float64))
    assert metric.leak == "low"


@pytest.mark.slow
@pytest.mark.usefixtures("known")
def test_pictures_too_small_for_the_network(net: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected pictures of at least 32 x 32, got 28 x 28"):
        lpips(as_npz(net, tmp_path)).score(torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 28, 28))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"conv2.bias": None}, "has no conv2.bias"),
        ({"lin3.weight": np.zeros(7, np.float32)}, r"lin3.weight has shape \(7,\), expected \(1, 256, 1, 1\)"),
        ({"conv1.bias": np.full(192, np.nan, np.float32)}, "conv1.bias holds NaN or infinite values"),
        ({"conv1.bias": np.zeros(192, np.complex64)}, "expected floating-point numbers as conv1.bias, got complex64"),
        ({"conv1.bias": np.zeros(192, np.longdouble)}, "expected numbers as conv1.bias, got"),
        ({"conv1.bias": np.array(["x"] * 192)}, "expected numbers as conv1.bias, got <U1"),
        ({"conv0.bias": np.ones(64, np.float32)}, "does not hold the weights of LPIPS 0.1 with AlexNet .checksum"),
    ],
)
@pytest.mark.usefixtures("known")
def test_other_weights_are_refused(net: Any, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lpips(as_npz(net, tmp_path, **changed))


@pytest.mark.parametrize("name", ["damaged.npz", "damaged.pth"])
def test_a_damaged_file_is_one_clear_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UsageError, match=f"{name} cannot be read"):
        lpips(tmp_path / name)
    with pytest.raises(UsageError, match=r"no\.npz does not exist; pip install 'unveil\[perceptual\]'"):
        lpips(tmp_path / "no.npz")


@pytest.mark.slow
@pytest.mark.parametrize("state", [{"x": 3}, {"features": torch.zeros(2)}, {"lin0": 1, "net.": 2, "": 3}])
def test_other_names_are_one_clear_sentence(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UsageError, match=r"x\.pth has no conv0\.weight of shape .*; give the weights of LPIPS 0\.1"):
        lpips(tmp_path / "x.pth")


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UsageError, match=r"the package is not installed; pip install 'unveil\[perceptual\]'"):
        lpips("download")
