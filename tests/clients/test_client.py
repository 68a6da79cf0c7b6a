"""A client that a user makes from a model, pictures and labels, and what the server receives from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jaxtyping import config
from torch import nn

from fakes import small_client
from seeds import seeded
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.obfuscations.noise import Gaussian
from unveil.obfuscations.topk import TopK


def a_client(**changes: Any) -> Client:
    model, batch = small_client()
    return Client(**{"model": model, "images": batch.images, "labels": batch.labels} | changes)


def test_model_pictures_and_labels_are_enough() -> None:
    model, batch = small_client()
    client = Client(model, batch.images, batch.labels)
    assert (client.classes, client.model_name, client.training) == (10, "SmallNet", FedSGD())
    knowledge = client.knowledge()
    assert (knowledge.image_shape, knowledge.num_images, knowledge.classes) == ((3, 8, 8), 4, 10)
    assert torch.equal(knowledge.labels, batch.labels)


def test_the_update_is_the_gradient_of_the_mean_cross_entropy() -> None:
    model, batch = small_client()
    loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    update = Client(model, batch.images, batch.labels).update()
    assert list(update.tensors) == [name for name, _ in model.named_parameters()]
    for sent, slope in zip(update.tensors.values(), slopes, strict=True):
        assert torch.allclose(sent, slope, atol=1e-6)


def test_the_update_of_local_steps_is_what_the_weights_lost() -> None:
    model, batch = small_client()
    client = Client(model, batch.images, batch.labels, training=FedAvg(steps=2, lr=0.1))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    update = client.update()
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
        optimiser.step()
    for name, weight in model.named_parameters():
        assert torch.allclose(update.tensors[name], before[name] - weight.detach(), atol=1e-6)


def test_the_obfuscation_acts_and_the_seed_decides_what_it_draws() -> None:
    client = a_client()
    kept = client.update(TopK(density=0.05))
    assert sum(kept.count_sent(name) for name in kept.tensors) < 0.1 * sum(t.numel() for t in kept.tensors.values())
    noise = Gaussian(relative=1.0)
    first, again, other = (client.update(noise, seed=seed).tensors for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a_client().update(Gaussian(relative=1.0))
    assert torch.equal(torch.rand(2), expected)


IMAGES = torch.rand((4, 3, 8, 8), generator=seeded(1))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "one picture": ({"images": IMAGES[0]}, r"got \(3, 8, 8\); stack them"),
    "no picture": ({"images": IMAGES[:0], "labels": torch.zeros(0, dtype=torch.long)}, r"got \(0, 3, 8, 8\)"),
    "a list": ({"images": [IMAGES]}, "got list"),
    "bytes": ({"images": (IMAGES * 255).byte()}, r"got uint8; use images.float\(\) / 255"),
    "8-bit values": ({"images": IMAGES * 255}, "expected images with values in .0, 1., got .* divide"),
    "normalised": ({"images": IMAGES - 0.5}, "put normalisation into the model"),
    "NaN": ({"images": IMAGES.clone().index_fill(0, torch.tensor(2), torch.nan)}, "hold NaN or infinite"),
    "too few labels": ({"labels": torch.tensor([1, 2])}, r"expected labels as 4 integers.*got torch.int64 of \(2,\)"),
    "soft labels": ({"labels": torch.full((4, 10), 0.1)}, r"got torch.float32 of \(4, 10\)"),
    "a label too high": ({"labels": torch.tensor([1, 2, 3, 10])}, "label 10 is out of range for 10 classes"),
    "a label too low": ({"labels": torch.tensor([1, 2, 3, -1])}, "label -1 is out of range for 10 classes"),
    "one class": ({"classes": 1}, "expected at least 2 classes, got 1"),
    "no module": ({"model": "lenet"}, "expected the model as a torch.nn.Module, got str"),
    "no logits": ({"model": nn.Flatten(0)}, r"returns 2 x classes logits for 2 pictures, got \(384,\)"),
    "grey pictures": ({"images": IMAGES[:, :1]}, "expected input.* to have 3 channels, but got 1"),
}


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As a user runs it: without the types that the tests check before any function sees its arguments."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_sentence_with_the_fix(name: str) -> None:
    change, message = WRONG[name]
    with pytest.raises(UsageError, match=message):
        a_client(**change)


def test_more_classes_than_outputs_are_refused_at_the_first_update() -> None:
    with pytest.raises(UsageError, match="label 10 is out of range for a model with 10 outputs"):
        a_client(classes=11, labels=torch.tensor([0, 1, 2, 10])).update()


class SaysNothing(nn.Module):
    """Its weights are multiplied by zero on the way to the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 10) * self.weight


def test_an_update_of_zeros_is_refused() -> None:
    with pytest.raises(UsageError, match="update is all zeros"):
        a_client(model=SaysNothing()).update()


def test_another_batch_leaves_everything_else() -> None:
    client = a_client(name="mine", class_names=("a", "b"), evaluation=EvaluationSet(decoys=IMAGES))
    other = client.holding(Batch(IMAGES[:2], torch.tensor([0, 1])))
    assert torch.equal(other.images, IMAGES[:2])
    assert (other.name, other.class_names, other.model) == ("mine", ("a", "b"), client.model)
    assert other.evaluation is client.evaluation
