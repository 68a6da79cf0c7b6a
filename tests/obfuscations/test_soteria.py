"""Soteria: which columns it prunes, for which networks, and what an attacker is told of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fakes import small_client
from seeds import seeded
from unveil.attacks.labels.inference import infer_labels
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.binding import for_client, for_receiver
from unveil.core.errors import UsageError
from unveil.core.protocols import HasEntryModels
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.soteria import Soteria


def sent(model: nn.Module, batch: Batch, spec: str) -> tuple[Update, Update]:
    """The client's update before and after an obfuscation."""
    update = Update(FedSGD()(model, batch))
    return update, for_client(parse(spec), model, batch, FedSGD())(update, generator=seeded(0))


def telling(body: nn.Module, images: Tensor) -> Tensor:
    """``|r_i| / ||d r_i / d x||`` of one picture, from the whole Jacobian of torch's own."""
    jacobian = torch.autograd.functional.jacobian(lambda x: body(x[None])[0], images)
    representation: Tensor = body(images[None])[0].detach()
    return representation.abs() / jacobian.flatten(1).norm(dim=1)


@pytest.mark.parametrize(("layer", "name", "size"), [("", "head.weight", 32), ("hidden", "hidden.weight", 256)])
def test_the_pruned_columns_have_the_largest_ratio_of_size_and_slope(layer: str, name: str, size: int) -> None:
    model, batch = small_client()
    spec = "soteria:pruning_rate=0.25" + (f",layer={layer}" if layer else "")
    whole, received = sent(model, batch, spec)
    body = model.features if layer else nn.Sequential(model.features, model.hidden, nn.Tanh())
    expected = torch.stack([telling(body, picture) for picture in batch.images]).sum(0)
    pruned = expected.argsort(descending=True)[: size // 4]
    kept = torch.ones(size, dtype=torch.bool).index_fill(0, pruned, False)
    assert torch.equal(received.tensors[name], whole.tensors[name] * kept)
    assert torch.equal(received.masks()[name], kept.expand_as(whole.tensors[name]))
    others = [other for other in whole.tensors if other != name]
    assert all(torch.equal(received.tensors[other], whole.tensors[other]) for other in others)
    assert set(received.masks()) == {name}
    entries = sum(tensor.numel() for tensor in whole.tensors.values())
    gone = whole.tensors[name][:, pruned].numel()
    assert received.wire_bits == 32 * (entries - gone) + whole.tensors[name].numel()  # a bitmap of the positions


@pytest.mark.slow
def test_entries_that_are_zero_for_every_picture_are_pruned_last() -> None:
    """Behind ReLU an entry of zero has no slope either, and pruning it would hide nothing."""
    model = build_model("lenet", image_shape=(3, 8, 8), classes=4, seed=0)
    images = torch.rand((2, 3, 8, 8), generator=seeded(0))
    batch = Batch(images, torch.tensor([0, 1]))
    with torch.no_grad():
        alive = (model[:-1](images) > 0).any(0)
    assert 0 < int(alive.sum()) < len(alive)
    _, received = sent(model, batch, f"soteria:pruning_rate={float(alive.sum() / len(alive)):g}")
    assert torch.equal(received.masks()["9.weight"][0], ~alive)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "resnet9", "resnet18"])
def test_it_defends_the_networks_that_come_with_unveil(name: str) -> None:
    model = build_model(name, image_shape=(3, 32, 32), classes=3, seed=0).eval()
    whole, received = sent(
        model, Batch(torch.rand((1, 3, 32, 32), generator=seeded(0)), torch.tensor([1])), "soteria:pruning_rate=0.5"
    )
    (defended,) = received.masks()
    last = [n for n, t in whole.tensors.items() if t.dim() == 2][-1]
    assert defended == last
    assert received.count_sent(defended) * 2 == whole.tensors[defended].numel()


def test_an_audit_sends_it_and_the_attacker_gets_the_rule_but_not_the_choice() -> None:
    model, batch = small_client()
    client = Client(model, batch.images, batch.labels)
    obfuscation = parse("soteria:pruning_rate=0.5+qsgd:levels=64,norm=max")
    received = client.update(obfuscation)
    assert received.count_sent("head.weight") * 2 == received.tensors["head.weight"].numel()
    assert client.knowledge(obfuscation).obfuscation is obfuscation
    assert isinstance(obfuscation, HasEntryModels)
    target, weight = obfuscation.entry_models(received)["head.weight"](
        torch.full((10, 32), 7.0), (slice(None), slice(None))
    )
    unsent = ~received.masks()["head.weight"]
    assert torch.equal(weight == 0, unsent)
    assert bool((target[unsent] == 7).all()) or bool((weight[unsent] == 0).all())


def test_pruned_columns_say_nothing_in_the_misfit() -> None:
    model, batch = small_client()
    whole, received = sent(model, batch, "soteria:pruning_rate=0.5")
    misfit = Soteria(pruning_rate=0.5).misfit(received)
    pruned = ~received.masks()["head.weight"]
    other = {**whole.tensors, "head.weight": whole.tensors["head.weight"] + 3 * pruned}
    assert float(misfit(other)) == float(misfit(whole.tensors)) == pytest.approx(0, abs=1e-9)
    wrong = {**whole.tensors, "head.weight": whole.tensors["head.weight"] + 3 * ~pruned}
    assert float(misfit(wrong)) > 1


def test_an_attacker_rehearses_with_the_columns_that_did_not_arrive() -> None:
    model, batch = small_client()
    _, received = sent(model, batch, "soteria:pruning_rate=0.5")
    update = Update(FedSGD()(model, small_client(seed=1)[1]))
    rehearsed = for_receiver(Soteria(pruning_rate=0.5), received)(update, generator=seeded(0))
    assert torch.equal(rehearsed.masks()["head.weight"], received.masks()["head.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["soteria:pruning_rate=0.5", "soteria:pruning_rate=0.5+qsgd:levels=16,norm=max"])
def test_labels_are_still_inferred(spec: str) -> None:
    model, batch = small_client()
    client = Client(model, batch.images, batch.labels)
    obfuscation = parse(spec)
    knowledge = client.knowledge(obfuscation)
    labels, _ = infer_labels(model, client.update(obfuscation), knowledge)
    assert labels.tolist() == sorted(batch.labels.tolist())


class Pooled(nn.Module):
    """Its last layer works on every place of a map, and its scores are the mean over the places."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(x.flatten(2).transpose(1, 2)).mean(1)
        return scores


@pytest.mark.parametrize(
    ("model", "spec", "message"),
    [
        (
            small_client()[0],
            "soteria:pruning_rate=0.5,layer=hiden",
            "no Linear layer 'hiden'; layer can be one of hidden, head",
        ),
        (nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()), "soteria:pruning_rate=0.5", "runs no Linear layer"),
        (Pooled(), "soteria:pruning_rate=0.5", "not run on one row of features for each picture but on .4, 64, 3.;"),
    ],
)
def test_a_network_that_it_cannot_defend_is_told_in_a_sentence(model: nn.Module, spec: str, message: str) -> None:
    batch = small_client()[1]
    with pytest.raises(UsageError, match=message):
        for_client(parse(spec), model, batch, FedSGD())


def test_a_frozen_layer_cannot_be_defended() -> None:
    model, batch = small_client()
    model.head.requires_grad_(False)
    with pytest.raises(UsageError, match=r"Soteria: head.weight is frozen, so nothing of it is sent; train it"):
        sent(model, batch, "soteria:pruning_rate=0.5")


def test_without_a_client_it_refuses() -> None:
    with pytest.raises(UsageError, match=r"depends on the client's model and batch; get the update from `client.upd"):
        Soteria(pruning_rate=0.5)(Update({"a": torch.ones(2, 2)}), generator=seeded(0))


@pytest.mark.parametrize("rate", [0, 1.5])
def test_the_pruning_rate_is_a_share(rate: float) -> None:
    with pytest.raises(UsageError, match=r"Soteria: expected 0 < pruning_rate <= 1"):
        Soteria(pruning_rate=rate)
