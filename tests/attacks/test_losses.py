"""The attack knows the client's loss: batches of other losses are separated exactly too, and labels are not guessed."""

from __future__ import annotations

from statistics import median

import pytest
from tests.attacks.test_separation import SHAPE, client, net, rng

from unveil.attacks import parse
from unveil.attacks.separation.factorisation import first_guess, refine
from unveil.attacks.separation.tuning import FactorisationTuning
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.core.loss import LossName
from unveil.core.protocols import Knowledge
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr

OTHERS: tuple[LossName, ...] = ("bce", "mse")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_batch_of_another_loss_is_separated_exactly(name: LossName, layers: int) -> None:
    off = []
    for seed in range(3):
        model, training = net(layers, bias=True, seed=seed), FedSGD(loss=name)
        head, truth, batch, update = client(model, [3, 11, 7, 0], seed=seed, training=training)
        gradients, tuning = [update.tensors[weight] for weight in head.weights], FactorisationTuning(first_ridge=1e-9)
        features, errors = first_guess(head, gradients, batch.labels, gain=1.0, tuning=tuning, generator=rng(seed))
        features, _ = refine(head, gradients, features, errors, batch.labels, gain=1.0, rounds=30, tuning=tuning)
        off.append(float((features - truth).norm() / truth.norm()))
    assert median(off) < 1e-3


def attacked(training: FedSGD) -> float:
    """PSNR of the whole attack on a small client, in dB."""
    model = net(2, bias=True)
    _, _, batch, update = client(model, [3, 11, 7, 0], training=training)
    knowledge = Knowledge(training=training, num_images=4, classes=20, image_shape=SHAPE, labels=batch.labels)
    found = parse("unveil:steps=20")(model, update, knowledge, generator=rng())
    assert found.evidence is not None  # the batch was separated
    return float(psnr(batch.images, align(batch.images, found).images).mean())


@pytest.mark.slow
def test_the_whole_attack_does_as_well_as_with_a_cross_entropy() -> None:
    usual = attacked(FedSGD())
    assert usual > 14
    assert attacked(FedSGD(loss="bce", reduction="sum", label_smoothing=0.1)) == pytest.approx(usual, abs=0.5)


def test_labels_of_another_loss_are_not_inferred() -> None:
    training = FedSGD(loss="bce")
    model = net(1, bias=True)
    _, _, _, update = client(model, [3, 11, 7, 0], training=training)
    knowledge = Knowledge(training=training, num_images=4, classes=20, image_shape=SHAPE)
    with pytest.raises(
        UsageError, match="labels are inferred from a softmax's cross-entropy only; let the attacker know"
    ):
        parse("unveil:steps=2")(model, update, knowledge, generator=rng())
