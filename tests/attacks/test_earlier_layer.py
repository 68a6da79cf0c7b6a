"""A batch behind PRECODE's bottleneck is separated at the first Linear layer, and a network that cannot be says why."""

from __future__ import annotations

from statistics import median

import pytest
import torch
from torch import Tensor, nn

from seeds import seeded, shifted
from unveil.attacks import parse
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.scales import Behind, scales_of
from unveil.attacks.separation.sparse_errors import sparse_errors
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.core.reconstruction import Reconstruction
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse as obfuscation_of

SHAPE = (3, 24, 24)


def made(images: int, *, seed: int = 0, sparse: float = 0.5, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Errors with zeros at random units, and features that are not negative."""
    errors = torch.randn((images, 200), generator=seeded(seed)).double()
    errors = errors * (torch.rand(errors.shape, generator=seeded(seed + 1)) > sparse)
    errors = errors * torch.logspace(0, -spread, images)[:, None]
    return errors, torch.rand((images, 600), generator=seeded(seed + 2)).double()


def cosines(found: Tensor, errors: Tensor) -> Tensor:
    """Cosine of each row that was found with each true one, whatever the sign."""
    return (nn.functional.normalize(found, dim=1) @ nn.functional.normalize(errors, dim=1).T).abs()


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 2, 8])
def test_errors_are_found_by_their_zeros_up_to_rounding(images: int) -> None:
    errors, features = made(images)
    found = sparse_errors(errors.T @ features, images, generator=seeded(3))
    assert found.shape == errors.shape
    closest, order = cosines(found, errors).max(1)
    assert float(closest.min()) > 1 - 1e-9
    assert sorted(order.tolist()) == list(range(images))
    assert torch.equal(found != 0, errors[order] != 0)


@pytest.mark.slow
def test_errors_are_found_in_noise() -> None:
    errors, features = made(4)
    gradient = errors.T @ features
    noise = torch.randn(gradient.shape, generator=seeded(9)).double() * gradient.std() / 10  # 20 dB
    found = sparse_errors(gradient + noise, 4, generator=seeded(3))
    assert float(cosines(found, errors).amax(0).min()) > 0.99


@pytest.mark.slow
def test_errors_without_zeros_are_not_found() -> None:
    errors, features = made(4, sparse=0.0)
    assert not len(sparse_errors(errors.T @ features, 4, generator=seeded(3)))


def network(bias: tuple[bool, bool], act: nn.Module | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        layers = (nn.Linear(64, 32, bias=bias[0]), act or nn.ReLU(), nn.Linear(32, 12, bias=bias[1]), nn.Tanh())
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(12, 4)).double().eval()


@pytest.mark.parametrize(
    ("bias", "act", "source"),
    [
        ((True, False), nn.ReLU(), "gradient of its bias gave"),
        ((False, True), nn.ReLU(), "next layer's bias gave"),
        ((False, False), nn.ReLU(), "is not known"),
        ((False, True), nn.Softplus(), "is not known"),
    ],
)
def test_the_scale_of_errors_follows_from_a_bias(bias: tuple[bool, bool], act: nn.Module, source: str) -> None:
    """Behind Softplus the next layer's inputs do not grow with the features, so its bias says nothing of them."""
    model = network(bias, act)
    features = torch.rand((3, 64), generator=seeded(0)).double()
    weight = model[1].weight
    received = dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(
                nn.functional.cross_entropy(model(features.reshape(3, 1, 8, 8)), torch.tensor([0, 1, 2])),
                list(model.parameters()),
            ),
            strict=True,
        )
    )
    errors = torch.linalg.lstsq(features.T, received["1.weight"].T).solution
    factors = torch.tensor([0.5, 3.0, 20.0]).double()
    behind = Behind(client=model, first="1.weight", second="3.weight", image_shape=(1, 8, 8))
    scales, sentence = scales_of(
        errors / factors[:, None], features * factors[:, None], behind, received, usual=float(features[0].norm())
    )
    assert weight.shape == received["1.weight"].shape
    assert source in sentence
    if "gave" in source:
        torch.testing.assert_close(scales, factors, rtol=1e-6, atol=0)
    else:
        torch.testing.assert_close(scales, factors, rtol=0.3, atol=0)


def attacked(model: nn.Module, images: Tensor, spec: str = "none") -> Reconstruction:
    client = Client(model, images, torch.arange(len(images)))
    obfuscation = obfuscation_of(spec)
    received = client.update(obfuscation, seed=1)
    return align(images, parse("unveil:steps=10")(model, received, client.knowledge(obfuscation), generator=seeded(2)))


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["none", "gaussian:snr_db=20", "qsgd:levels=16,norm=max"])
def test_precode_does_not_hide_pictures_whose_features_a_linear_layer_gets(spec: str) -> None:
    """The pictures come back as from the bare network, whose head is used with known labels."""
    less = []
    for seed in range(3):
        images = dead_leaves(4, SHAPE, generator=seeded(seed))
        bare, defended = (
            attacked(build_model(name, image_shape=SHAPE, classes=10, seed=seed), images, spec)
            for name in ("lenet", "precode?model=lenet")
        )
        assert "separated at the network's first Linear layer (7.weight)" in defended.notes[0]
        less.append(float((psnr(images, bare.images) - psnr(images, defended.images)).mean()))
    assert median(less) < 1


class Activated(nn.Module):
    """Its scores depend on the features in two ways, behind an activation without closed gates."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten())
        self.first, self.second = nn.Linear(4 * 12 * 12, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.second(nn.functional.softplus(self.first(self.body(x)))) * x.mean((1, 2, 3))[:, None]
        return scores


class Mapless(nn.Module):
    """Its Linear layers get the mean colour beside the picture's pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.first(x.square().mean((2, 3))) * x.mean((1, 2, 3))[:, None]
        return scores


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Activated, "At its first Linear layer (first.weight) the gates of 0 of 2 images were found."),
        (Mapless, "No earlier Linear layer takes the entries of a map."),
    ],
)
def test_a_network_that_cannot_be_separated_earlier_says_why(model: type[nn.Module], reason: str) -> None:
    guess = attacked(model().eval(), dead_leaves(2, SHAPE, generator=seeded(0)))
    assert reason in guess.notes[0]
    assert guess.notes[0].endswith("The attack matched updates instead.")
