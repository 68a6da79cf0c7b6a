"""PRECODE: the bottleneck stands in front of the last layer, and draws for each picture what only a seed tells."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instances import first_of_each
from seeds import seeded, shifted
from unveil.attacks import parse
from unveil.clients.local_steps import draws_of
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.network import Mode, draws_by_chance
from unveil.core.protocols import Knowledge
from unveil.core.update import Update

SHAPE = (3, 8, 8)


def defended(name: str = "precode?latents=5", classes: int = 3) -> nn.Module:
    return build_model(name, image_shape=SHAPE, classes=classes, seed=shifted(0))


def batch() -> Batch:
    return Batch(torch.rand(2, *SHAPE, generator=seeded(1)), torch.tensor([2, 0]))


@pytest.mark.parametrize("inner", first_of_each(["lenet", "vgg7", "resnet9", "resnet18"]))
def test_the_bottleneck_stands_in_front_of_the_last_layer_and_leaves_the_others(inner: str) -> None:
    bare = build_model(inner, image_shape=SHAPE, classes=3, seed=shifted(0))
    model = defended(f"precode?latents=5&model={inner}")
    *body, last = bare.children()
    bottleneck = list(model.children())[-1]
    own, others = nn.Sequential(*body).state_dict(), nn.Sequential(*list(model.children())[:-1]).state_dict()
    assert all(torch.equal(own[name], others[name]) for name in own)
    assert torch.equal(bottleneck.last.weight, last.weight)  # type: ignore[union-attr]
    shapes = [tuple(weight.shape) for weight in bottleneck.parameters()]
    assert shapes == [(10, last.in_features), (10,), (last.in_features, 5), (last.in_features,), (3, last.in_features)]


def test_the_papers_number_of_latents_is_the_default() -> None:
    encode = list(defended("precode").children())[-1].encode
    assert encode.out_features == 2 * 256  # type: ignore[union-attr]


def by_hand(model: nn.Module, images: Tensor, noise: Tensor) -> Tensor:
    *body, bottleneck = model.children()
    mean, log_variance = bottleneck.encode(nn.Sequential(*body)(images)).split(5, dim=1)  # type: ignore[union-attr,operator]
    return bottleneck.last(bottleneck.decode(mean + torch.exp(0.5 * log_variance) * noise))  # type: ignore[union-attr,operator]


def test_the_mean_of_draws_is_the_bottleneck_without_noise() -> None:
    model, own = defended(), batch()
    loss = F.cross_entropy(by_hand(model, own.images, torch.zeros(2, 5)), own.labels)
    expected = dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True)
    )
    found = FedSGD().simulate(model, own, draws=None)
    for name, slope in expected.items():
        torch.testing.assert_close(found[name], slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_who_knows_the_draws_and_nobody_else_explains_the_update(mode: Mode) -> None:
    model, own, training = defended(), batch(), FedSGD(mode=mode)
    sent = training(model, own, generator=seeded(2))
    assert draws_by_chance(model, own.images, mode=mode)

    def off(draws: int | None) -> float:
        found = training.simulate(model, own, draws=draws)
        return max(float((found[name] - slope).abs().max()) for name, slope in sent.items())  # type: ignore[operator]

    known = draws_of(seeded(2))
    assert off(known) < 1e-6
    assert off(None) > 1e-3
    assert off(known + 1) > 1e-3


def test_every_picture_has_noise_of_its_own() -> None:
    same = defended()(batch().images[:1].repeat(4, 1, 1, 1)).detach()
    assert float((same[0] - same[1:]).abs().min()) > 0


@pytest.mark.parametrize("attack", first_of_each(["unveil:steps=1", "inverting_gradients:steps=2"]))
@pytest.mark.parametrize("draws", first_of_each([None, 7]))
def test_attacks_run_on_it(attack: str, draws: int | None) -> None:
    model, own, training = defended(), batch(), FedSGD()
    update = Update(training(model, own, generator=seeded(2)))
    knowledge = Knowledge(
        training=training, image_shape=SHAPE, num_images=2, classes=3, labels=own.labels, draws=draws, stochastic=True
    )
    guess = parse(attack)(model, update, knowledge, generator=seeded(3))
    assert guess.images.shape == own.images.shape
    assert bool(torch.isfinite(guess.images).all())


USERS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.head = nn.Linear(width, 3)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU())
    def forward(self, x): return self.head(self.body(x))

class Scaled(Net):
    def forward(self, x): return 2 * super().forward(x)

class Twice(Net):
    def forward(self, x): return self.head(self.body(x) + 0 * self.head(self.body(x)).sum())

def net(width=4): return Net(width)
def scaled(): return Scaled(4)
def twice(): return Twice(4)
def layer(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Softplus())
"""


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets_of_theirs.py").write_text(USERS)
    yield
    sys.modules.pop("nets_of_theirs", None)


@pytest.mark.usefixtures("own_networks")
def test_it_stands_in_a_users_network_with_its_arguments() -> None:
    model = defended("precode?latents=5&model=nets_of_theirs:net?width=6")
    head = model.head
    assert isinstance(head, nn.Module)
    assert [name for name, _ in head.named_children()] == ["encode", "decode", "last"]
    assert head.last.in_features == 6  # type: ignore[union-attr]
    assert model(batch().images).shape == (2, 3)


@pytest.mark.usefixtures("own_networks")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("precode?model=nets_of_theirs:scaled", "does not end in a Linear layer"),
        ("precode?model=nets_of_theirs:twice", "does not end in a Linear layer"),
        ("precode?model=nets_of_theirs:layer", "does not end in a Linear layer"),
        ("precode?model=nets_of_theirs:nett", "has no factory 'nett'; did you mean 'net'"),
        ("precode?model=lennet", "unknown model 'lennet'; did you mean 'lenet'"),
        ("precode?model=precode", "unknown model 'precode'"),
        ("precode?model=3", "expected model to be the name of a network, got 3"),
        ("precode?latents=0", "precode: expected latents >= 1, got 0"),
        ("precode?latents=2.5", "expected latents to be a whole number, got 2.5"),
        ("precode?width=3", "has no argument 'width'"),
        ("precode?model=lenet?width=3", "has no argument 'width'"),
    ],
)
def test_what_it_cannot_stand_in_is_a_sentence(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        defended(name)
