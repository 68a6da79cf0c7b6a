"""Labels that count the model's classes, and what is said of a model that does not know its pictures."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from seeds import seeded, shifted
from unveil.attacks.dead_leaves import dead_leaves
from unveil.clients.batch_fit import BatchFit, batch_fit
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.pixels import png_of

TEN = ["cab", "ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis"]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Two classes, of which the model has eight more."""
    for number, name in enumerate(("dog", "cat")):
        (tmp_path / name).mkdir()
        for index, picture in enumerate(dead_leaves(3, (3, 16, 16), generator=seeded(number))):
            (tmp_path / name / f"{index}.png").write_bytes(png_of(picture))
    return str(tmp_path)


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of the user's own with ten outputs, which is sure that every picture shows a cat."""
    beside = tmp_path_factory.mktemp("models")
    (beside / "sure_of_cats.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net():\n"
        "    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))\n"
        "    nn.init.normal_(model[1].weight, std=0.001)\n"
        "    nn.init.zeros_(model[1].bias)\n"
        "    model[1].bias.data[3] = 5.0\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(str(beside))
    monkeypatch.delitem(sys.modules, "sure_of_cats", raising=False)
    return "sure_of_cats:net"


def test_class_names_give_the_labels_their_numbers(folder: str) -> None:
    def labels(**settings: object) -> tuple[list[int], int, tuple[str, ...]]:
        client = make_client(name="c", model="lenet", images=folder, size=16, batch=4, training=FedSGD(), **settings)
        return sorted(client.labels.tolist()), client.classes, client.class_names

    assert labels() == ([0, 0, 1, 1], 2, ("cat", "dog"))
    assert labels(class_names=TEN) == ([3, 3, 4, 4], 10, tuple(TEN))
    with pytest.raises(UsageError, match="class 'cat' is not in class_names; did you mean 'cats'"):
        labels(class_names=["dog", "cats"])
    with pytest.raises(UsageError, match="class_names has 'dog' twice"):
        labels(class_names=["dog", "cat", "dog"])


def test_another_clients_labels_are_renumbered_too(folder: str) -> None:
    client = make_client(
        name="c", model="lenet", images=folder, size=16, batch=2, training=FedSGD(), class_names=TEN, others=True
    )
    assert client.evaluation.others is not None
    assert set(client.evaluation.others.labels.tolist()) <= {3, 4}


def test_a_model_that_counts_classes_otherwise_is_worse_than_chance_and_told_so(folder: str, own: str) -> None:
    wrong = make_client(name="c", model=own, images=folder, size=16, batch=4, training=FedSGD())
    assert wrong.fit is not None
    assert (wrong.fit.hits, wrong.fit.outputs) == (0, 10)
    text = " ".join(wrong.notes)
    assert "no better than chance on the batch: before the attack the model's loss on the batch is 5." in text
    assert "The model has 10 outputs and the pictures 2 classes" in text
    right = make_client(name="c", model=own, images=folder, size=16, batch=4, training=FedSGD(), class_names=TEN)
    assert right.fit is not None
    assert right.fit.hits == 2
    assert "The model has 10 outputs" not in " ".join(right.notes)


def test_loss_and_hits_are_those_of_the_definition() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    batch = Batch(torch.rand((5, 3, 2, 2), generator=seeded(1)), torch.tensor([0, 1, 2, 3, 3]))
    fit = batch_fit(model, batch, FedSGD())
    probabilities = model(batch.images).detach().softmax(1).double()
    assert fit.loss == pytest.approx(-float(probabilities[range(5), batch.labels].log().mean()), rel=1e-5)
    assert fit.hits == int((probabilities.max(1).indices == batch.labels).sum())
    assert fit.chance == pytest.approx(math.log(4))


@pytest.mark.parametrize(("loss", "hits", "chance"), [(0.1, 8, False), (2.4, 8, True), (0.9, 1, True), (2.2, 3, False)])
def test_chance_is_told_by_the_loss_or_by_the_hits(loss: float, hits: int, chance: bool) -> None:
    assert BatchFit(loss=loss, hits=hits, pictures=10, outputs=10).is_chance is chance
