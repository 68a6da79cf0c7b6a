"""Where matching updates finds nothing the grey picture is handed back with the reason, and else it is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from instances import first_of_each
from seeds import seeded, shifted
from unveil.attacks import parse
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.explained import distances, explained_share
from unveil.attacks.separation.state import Problem
from unveil.clients.client import Client
from unveil.clients.training import FedSGD
from unveil.core.reconstruction import Reconstruction
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse as obfuscation_of

SHAPE = (3, 16, 16)
FAILED = "a failed attack, and not evidence that nothing leaks"


class Normed(nn.Module):
    """Convolutions with BatchNorm and a pooled map, on which a short search in train mode finds nothing."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, out in ((3, 16), (16, 32), (32, 32), (32, 32)):
            layers += [nn.Conv2d(inside, out, 3, 1 + (inside < out), 1), nn.BatchNorm2d(out), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).mean((2, 3)))
        return scores


def smooth() -> nn.Module:
    """Convolutions with SiLU and a pooled map of four places, on which matching works."""
    convolutions = (nn.Conv2d(3, 16, 3, 1, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU())
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6))


def client(build: type[nn.Module] | object, *, mode: str = "eval", images: int = 1) -> Client:
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        model = build()  # type: ignore[operator]
    pictures = dead_leaves(images, SHAPE, generator=seeded(1))
    return Client(model, pictures, torch.arange(images), training=FedSGD(mode=mode))  # type: ignore[arg-type]


def attacked(victim: Client, spec: str, sent: str = "none") -> Reconstruction:
    obfuscation = obfuscation_of(sent)
    received = victim.update(obfuscation, seed=2)
    return parse(spec)(victim.model, received, victim.knowledge(obfuscation), generator=seeded(3))


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["none", "qsgd:levels=16,norm=max"])
def test_pictures_that_explain_no_more_than_the_grey_one_are_not_handed_back(sent: str) -> None:
    guess = attacked(client(Normed, mode="train", images=4), "unveil:steps=2", sent)
    assert any("so the grey picture is handed back" in note and FAILED in note for note in guess.notes)
    assert torch.equal(guess.images, torch.full_like(guess.images, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["none", "qsgd:levels=16,norm=max"])
def test_pictures_that_explain_the_update_are_handed_back(sent: str) -> None:
    victim = client(smooth)
    guess = attacked(victim, "unveil:steps=60", sent)
    assert not any(FAILED in note for note in guess.notes)
    blind = psnr(victim.images, torch.full_like(victim.images, 0.5))
    assert float(psnr(victim.images, guess.images)) > float(blind)


@pytest.mark.parametrize("sent", first_of_each(["none", "qsgd:levels=4,norm=max", "topk:density=0.2"]))
def test_the_true_pictures_explain_all_and_the_grey_ones_nothing(sent: str) -> None:
    """Through an obfuscation, all that it leaves; nothing is 0, because the grey pictures are what is compared with."""
    victim = client(smooth, images=3)
    obfuscation = obfuscation_of(sent)
    problem = Problem(
        model=victim.model,
        update=victim.update(obfuscation),
        knowledge=victim.knowledge(obfuscation),
        labels=victim.labels,
        generator=seeded(0),
    )
    grey = torch.full_like(victim.images, 0.5)
    assert explained_share(problem, grey, blank=grey) == 0
    assert explained_share(problem, victim.images, blank=grey) == pytest.approx(1, abs=1e-5 if sent == "none" else 0.4)


def test_distances_are_those_of_torch() -> None:
    some, others = torch.randn((4, 5), generator=seeded(0)), torch.randn((4, 5), generator=seeded(1))
    found = distances({"a": some, "zero": torch.zeros(3)}, {"a": others, "zero": torch.ones(3)})
    expected = 1 - torch.cosine_similarity(some.flatten(), others.flatten(), dim=0)
    assert found == {"a": pytest.approx(float(expected), abs=1e-6)}
