"""The gain of an update whose length says nothing: estimated near the truth, and exactly where nothing was rounded.

The truth is how many times longer the received update is than the one that the client made; no attack is told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import pytest
import torch
from torch import Generator, Tensor, nn

from seeds import seeded, shifted
from unveil import attacks, obfuscations
from unveil.attacks.separation.gain.consistency import consistent_gain
from unveil.attacks.separation.gain.levels import Levelled, level
from unveil.attacks.separation.gain.likelihood import GainLikelihood, is_known
from unveil.attacks.separation.heads.head import read_head
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.batch import Batch
from unveil.core.protocols import Knowledge, LocalTraining, Misfit
from unveil.core.types import Family
from unveil.core.update import Update

SHAPE = (3, 32, 32)
SEEDS = range(3)


def lenet(seed: int) -> nn.Module:
    return build_model("lenet", image_shape=SHAPE, classes=10, seed=shifted(seed))


def without_biases(seed: int) -> nn.Module:
    model = lenet(seed)
    for module in model:  # type: ignore[attr-defined]
        module.bias = None if isinstance(module, nn.Conv2d) else getattr(module, "bias", None)
    return model


def client(
    seed: int, training: LocalTraining, obfuscation: str, *, n: int = 2, known: bool = True
) -> tuple[Batch, Knowledge]:
    pictures = load_pictures("builtin", count=n, size=32, skip=n * seed)
    batch = Batch(pictures.images, pictures.labels % 10)
    knowledge = Knowledge(
        training=training,
        image_shape=SHAPE,
        num_images=n,
        classes=10,
        labels=batch.labels,
        obfuscation=obfuscations.parse(obfuscation) if known else None,
    )
    return batch, knowledge


def off(model: nn.Module, batch: Batch, received: Update, knowledge: Knowledge, *, seed: int) -> float:
    """By which share the attack's estimate misses the truth."""
    guess = attacks.parse("unveil:steps=5")(model, received, knowledge, generator=seeded(seed))
    (note,) = (note for note in guess.notes if "estimated to be" in note)
    estimate = float(note.partition("estimated to be ")[2].split()[0])
    once = knowledge.training(model, batch)
    shared = sum(float((received.tensors[name] * once[name]).sum()) for name in once)
    truth = shared / sum(float(tensor.square().sum()) for tensor in once.values())
    return abs(estimate / truth - 1)


@pytest.mark.slow
@pytest.mark.parametrize("network", [lenet, without_biases])
def test_a_clipped_update_has_its_gain_to_three_digits(network: type[nn.Module]) -> None:
    found, spec = [], "clip:norm=0.1"
    for seed in SEEDS:
        model = network(seed)
        batch, knowledge = client(seed, FedSGD(), spec)
        assert knowledge.obfuscation is not None
        received = knowledge.obfuscation(Update(FedSGD()(model, batch)), generator=seeded(seed))
        found.append(off(model, batch, received, knowledge, seed=seed))
    assert median(found) < 0.005  # the note has three digits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "obfuscation", "known"),
    [
        (FedSGD(), "qsgd:levels=16,norm=max", False),
        (FedSGD(), "dpsgd:clip=1,noise=0.001", True),
        (FedAvg(steps=4, lr=0.005), "none", True),
    ],
    ids=["obfuscation unknown", "clipped and noised", "training unknown"],
)
def test_a_gain_behind_noise_or_unknown_steps_is_right_within_a_fifth(
    training: LocalTraining, obfuscation: str, known: bool
) -> None:
    found = []
    for seed in SEEDS:
        model = lenet(seed)
        batch, knowledge = client(seed, FedSGD(), obfuscation, known=known)
        sent = Update(training(model, batch))
        received = obfuscations.parse(obfuscation)(sent, generator=seeded(seed))
        knowledge = replace(knowledge, scale=training == FedSGD())
        found.append(off(model, batch, received, knowledge, seed=seed))
    assert median(found) < 0.2


@pytest.mark.slow
def test_the_true_pictures_tell_the_gain_by_every_tensor() -> None:
    model = lenet(0)
    batch, _ = client(0, FedSGD(), "none")
    gain = 0.037
    sent = FedSGD()(model, batch)
    received = Levelled(tensors={n: gain * t for n, t in sent.items()}, clear=dict.fromkeys(sent, 1.0))
    scale = GainLikelihood(
        received=received, simulate=lambda x: FedSGD().simulate(model, Batch(x, batch.labels)), first=0.05
    )
    found = scale.best(lambda g: (batch.images * gain / g).clamp(0, 1), start=0.05, widths=(1.0, 0.4, 0.1))
    assert found == pytest.approx(gain, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.9, 1.12])
def test_only_one_gain_makes_the_head_explain_its_own_gradient(start: float) -> None:
    """Found within a twentieth or not at all, and for some client of three to four digits."""
    exact = 0
    for seed in SEEDS:
        model = lenet(seed)
        batch, _ = client(seed, FedSGD(), "none", n=4)
        head = read_head(model, SHAPE, training=FedSGD())
        gradient = 0.02 * FedSGD()(model, batch)[head.weights[0]]
        features = head.features(batch.images).detach() / start
        found = consistent_gain(head, gradient, batch.labels, features, 0.02 * start)
        assert found is None or found == pytest.approx(0.02, rel=0.05)
        exact += found == pytest.approx(0.02, rel=1e-3)
        noise = gradient.std() * torch.randn(gradient.shape, generator=seeded(1))
        assert consistent_gain(head, gradient + noise, batch.labels, features, 0.02 * start) is None
    assert exact >= 1


@dataclass(frozen=True)
class EachItsOwn:
    """An obfuscation that multiplies every tensor by a factor of its own."""

    factors: tuple[float, ...]
    family: Family = "quantise"
    scale_unknown: bool = True

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        pairs = zip(update.tensors.items(), self.factors, strict=True)
        return Update({name: factor * tensor for (name, tensor), factor in pairs})

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        raise NotImplementedError


def test_what_a_channel_does_to_single_tensors_is_undone() -> None:
    model = lenet(0)
    batch, knowledge = client(0, FedSGD(), "none")
    sent = FedSGD()(model, batch)
    obfuscation = EachItsOwn(tuple(float(10**k) for k in range(-3, len(sent) - 3)))
    received = obfuscation(Update(sent), generator=seeded(0))
    reference = "7.weight"
    levelled = level(
        model,
        received,
        replace(knowledge, obfuscation=obfuscation),
        batch.labels,
        reference=reference,
        generator=seeded(0),
    )
    assert torch.equal(levelled.tensors[reference], received.tensors[reference])
    common = float(received.tensors[reference].norm() / sent[reference].norm())
    for name, tensor in sent.items():
        torch.testing.assert_close(levelled.tensors[name], common * tensor, rtol=1e-4, atol=0)
        assert levelled.clear[name] == pytest.approx(1.0, abs=1e-4)


def test_the_gain_is_known_only_with_training_and_a_channel_that_keeps_lengths() -> None:
    ask = partial(client, 0, FedSGD())
    assert is_known(ask("none")[1])
    assert is_known(ask("qsgd:levels=4")[1])
    assert not is_known(ask("clip:norm=1")[1])
    assert not is_known(ask("sign+fp16")[1])
    assert not is_known(ask("none", known=False)[1])
    assert not is_known(replace(ask("none")[1], scale=False))


def test_a_tensor_that_was_not_sent_says_nothing() -> None:
    model = lenet(0)
    batch, _ = client(0, FedSGD(), "none")
    sent: dict[str, Tensor] = dict(FedSGD()(model, batch))
    sent["0.bias"] = torch.zeros_like(sent["0.bias"])
    received = Levelled(tensors=sent, clear=dict.fromkeys(sent, 1.0))
    scale = GainLikelihood(
        received=received, simulate=lambda x: FedSGD().simulate(model, Batch(x, batch.labels)), first=1.0
    )
    found = scale.best(lambda g: (batch.images / g).clamp(0, 1), start=1.3, widths=(0.4, 0.1))
    assert found == pytest.approx(1.0, rel=0.1)
