"""Networks that people take from torchvision: built by name, their gradient is autograd's, and attacks run on them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from seeds import seeded, shifted
from unveil.attacks import parse
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.network import Mode
from unveil.core.protocols import Knowledge
from unveil.core.update import Update

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")

SIZES = {
    "alexnet": 64,
    "resnet18": 32,
    "squeezenet1_1": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "shufflenet_v2_x0_5": 32,
    "efficientnet_b0": 32,
    "densenet121": 32,
    "regnet_y_400mf": 32,
    "swin_t": 32,
    "googlenet": 64,
}


def victim(name: str) -> tuple[torch.nn.Module, Batch]:
    shape = (3, SIZES[name], SIZES[name])
    weights = "&init_weights=false" if name == "googlenet" else ""
    named = f"torchvision.models:{name}?num_classes=7{weights}"
    model = build_model(named, image_shape=shape, classes=7, seed=shifted(0))
    return model, Batch(torch.rand((2, *shape), generator=seeded(1)), torch.tensor([5, 2]))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_their_gradient_is_autograds(name: str) -> None:
    model, batch = victim(name)
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    loss = F.cross_entropy(model(batch.images), batch.labels)
    slopes = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    update = FedSGD()(model, batch)
    assert list(update) == list(trained)
    for key, slope in zip(trained, slopes, strict=True):
        expected = torch.zeros_like(trained[key]) if slope is None else slope
        off = float((update[key] - expected).norm())
        assert off <= 1e-4 * float(expected.norm()) + 1e-7, key


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    "name", [name for name in SIZES if name not in ("alexnet", "swin_t", "densenet121", "googlenet")]
)
def test_attacks_run_on_them(name: str, mode: Mode) -> None:
    model, batch = victim(name)
    training = FedSGD(mode=mode)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    update = Update(training(model, batch, generator=seeded(2)))
    knowledge = Knowledge(
        training=training, image_shape=tuple(batch.images.shape[1:]), num_images=2, classes=7, labels=batch.labels
    )
    guess = parse("unveil:steps=1")(model, update, knowledge, generator=seeded(3))
    assert bool(torch.isfinite(guess.images).all())
    assert any("separated" in note for note in guess.notes)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_more_outputs_than_logits_are_a_sentence() -> None:
    model, batch = victim("googlenet")
    with pytest.raises(UsageError, match="GoogLeNetOutputs; let the model return the logits alone"):
        FedSGD(mode="train")(model, batch)
