"""No network that torch can train is a bug in unveil: every attack gives pictures, or one sentence says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seeds import seeded, shifted
from unveil import attacks, obfuscations
from unveil.audits.pipeline import play
from unveil.clients.client import Client
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError

CLASSES, SIDE, PICTURES = 5, 16, 4
FLAT = 4 * SIDE * SIDE


class Net(nn.Module):
    """A network of some layers and a forward."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.way = forward
        self.conv, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(FLAT, CLASSES)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x)


def behind(*layers: nn.Module, width: int = FLAT) -> Callable[[], nn.Module]:
    """A convolution, the layers, and a Linear layer."""
    return lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, nn.Flatten(), nn.Linear(width, CLASSES))


def plain(net: Any, x: Tensor) -> Tensor:
    return net.out(F.relu(net.conv(x)).flatten(1))


def recurrent(net: Any, x: Tensor) -> Tensor:
    states, _ = net.cells(net.patches(x).flatten(2).transpose(1, 2))
    return net.scores(states[:, -1])


def cells(kind: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Net(
        recurrent, patches=nn.Conv2d(3, 8, 4, 4), cells=kind(8, 12, batch_first=True), scores=nn.Linear(12, CLASSES)
    )


def complex_numbers(net: Any, x: Tensor) -> Tensor:
    return net.out(torch.view_as_real(torch.complex(*net.conv(x).split(2, 1))).flatten(1))


def spectrum(net: Any, x: Tensor) -> Tensor:
    return net.scores(torch.fft.rfft2(net.conv(x)).abs().flatten(1))


def distances(net: Any, x: Tensor) -> Tensor:
    return -torch.cdist(net.hidden(F.relu(net.conv(x)).flatten(1)), net.centres.weight)


def unpooled(net: Any, x: Tensor) -> Tensor:
    maps, places = F.max_pool2d(net.conv(x), 2, return_indices=True)
    return net.out(F.max_unpool2d(maps, places, 2).flatten(1))


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "local response norm": behind(nn.LocalResponseNorm(3), nn.ReLU()),
    "instance norm": behind(nn.InstanceNorm2d(4, affine=True), nn.ReLU()),
    "RMS norm": behind(nn.RMSNorm([4, SIDE, SIDE]), nn.ReLU()),
    "GRU": cells(nn.GRU),
    "LSTM": cells(nn.LSTM),
    "adaptive max pooling": behind(nn.ReLU(), nn.AdaptiveMaxPool2d(2), width=16),
    "adaptive max pooling to one place": behind(nn.ReLU(), nn.AdaptiveMaxPool2d(1), width=4),
    "LP pooling": behind(nn.ReLU(), nn.LPPool2d(2, 2), width=FLAT // 4),
    "max unpooling": lambda: Net(unpooled),
    "bicubic": behind(nn.Upsample(scale_factor=2, mode="bicubic"), nn.ReLU(), width=4 * FLAT),
    "pixel shuffle": behind(nn.PixelShuffle(2), nn.ReLU()),
    "GLU": behind(nn.GLU(1), width=FLAT // 2),
    "hard shrinking": behind(nn.Hardshrink()),
    "random slopes": behind(nn.RReLU()),
    "alpha dropout": behind(nn.AlphaDropout(0.3), nn.SELU()),
    "complex numbers": lambda: Net(complex_numbers),
    "a spectrum": lambda: Net(spectrum, scores=nn.Linear(4 * SIDE * (SIDE // 2 + 1), CLASSES)),
    "sorted features": lambda: Net(lambda net, x: net.out(net.conv(x).flatten(1).sort(1)[0])),
    "distances": lambda: Net(distances, hidden=nn.Linear(FLAT, 12), centres=nn.Linear(12, CLASSES)),
    "a branch by value": lambda: Net(lambda net, x: plain(net, x) if x.mean().item() > 0.5 else 2 * plain(net, x)),
    "pictures rounded": lambda: Net(lambda net, x: plain(net, (x * 255).round() / 255)),
    "features detached": lambda: Net(lambda net, x: net.out(net.conv(x).detach().flatten(1))),
    "less the batch's mean": lambda: Net(lambda net, x: plain(net, x) - plain(net, x).mean(0)),
    "scores of one place": lambda: nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
}

REFUSED: Mapping[str, tuple[Callable[[], nn.Module], str]] = {
    "lazy": (
        lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(CLASSES)),
        "has lazy layers without weights; run it once on a picture where it is built",
    ),
    "checkpointed": (
        lambda: Net(lambda net, x: net.out(checkpoint(net.conv, x, use_reentrant=False).flatten(1))),
        "activation checkpointing is not supported; switch it off for the audit",
    ),
    "checkpointed, reentrant": (
        lambda: Net(lambda net, x: net.out(checkpoint(net.conv, x, use_reentrant=True).flatten(1))),
        "activation checkpointing is not supported; switch it off for the audit",
    ),
    "a dict": (lambda: Net(lambda net, x: {"logits": plain(net, x)}), "let the model return the logits alone"),
    "a tuple": (lambda: Net(lambda net, x: (plain(net, x), x)), "let the model return the logits alone"),
    "a map of scores": (lambda: Net(lambda net, x: plain(net, x)[..., None]), "one row of logits an image"),
}


def client_of(build: Callable[[], nn.Module], mode: Any) -> Client:
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        model = build()
    pictures = torch.rand((PICTURES, 3, SIDE, SIDE), generator=seeded(1))
    return Client(model, pictures, torch.arange(PICTURES), classes=CLASSES, training=FedSGD(mode=mode))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "mode"),
    [
        ("unveil:steps=3", "eval"),
        ("unveil:steps=3", "train"),
        ("inverting_gradients:steps=2", "train"),
        ("rog:steps=2", "eval"),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_attack_gives_pictures(name: str, attack: str, mode: str) -> None:
    client = client_of(NETWORKS[name], mode)
    outcome = play(client, obfuscations.parse("qsgd:levels=16"), attacks.parse(attack), seed=0)
    images = outcome.attack.images
    assert images.shape == client.images.shape
    assert bool(((images >= 0) & (images <= 1)).all())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_audited_is_one_sentence(name: str) -> None:
    build, reason = REFUSED[name]
    with pytest.raises(UsageError, match=reason) as refused:
        play(client_of(build, "train"), obfuscations.parse("none"), attacks.parse("unveil:steps=2"), seed=0)
    assert "\n" not in str(refused.value)
