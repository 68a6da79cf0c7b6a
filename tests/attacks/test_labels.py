"""Labels are told from the update of the last layer, whatever its features, its bias, its obfuscation and its place."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import zoo
from fakes import small_client
from seeds import seeded, shifted
from unveil.attacks.labels.counts import cheapest_counts, margin
from unveil.attacks.labels.inference import idlg_label, infer_labels
from unveil.attacks.labels.public import public_pictures
from unveil.attacks.labels.rows import read_rows
from unveil.attacks.presets import parse as attack_of
from unveil.clients.client import Client
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.protocols import Knowledge, LocalTraining
from unveil.core.update import Update
from unveil.obfuscations import parse

SHAPE = (3, 8, 8)
FEATURES = 32
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "Tanh": nn.Tanh,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "LogSigmoid": nn.LogSigmoid,
    "LayerNorm": lambda: nn.Sequential(nn.ReLU(), nn.LayerNorm(FEATURES)),
}
FEW = settings(deadline=None, max_examples=2, derandomize=True)


def mlp(activation: str = "ReLU", *, bias: bool = True, classes: int = 10, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(shifted(seed))
        head = nn.Linear(FEATURES, classes, bias=bias)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, FEATURES), ACTIVATIONS[activation](), head).eval()


def sent_by(
    model: nn.Module,
    labels: list[int],
    *,
    training: LocalTraining | None = None,
    obfuscation: str = "none",
    classes: int = 10,
    seed: int = 0,
) -> tuple[Update, Knowledge]:
    """An update of pictures of noise, and what an attacker knows who knows all but the labels."""
    training, obfuscation = training or FedSGD(), parse(obfuscation)
    images = torch.rand((len(labels), *SHAPE), generator=seeded(seed + 1))
    images = images.to(next(model.parameters()))
    tensors = training(model, Batch(images, torch.tensor(labels)), generator=seeded(seed))
    knowledge = Knowledge(
        training=training,
        image_shape=SHAPE,
        num_images=len(labels),
        classes=classes,
        obfuscation=obfuscation,
    )
    return obfuscation(Update(tensors), generator=seeded(seed + 2)), knowledge


def found_in(model: nn.Module, update: Update, knowledge: Knowledge) -> list[int]:
    labels = infer_labels(model, update, knowledge)[0].tolist()
    assert len(labels) == knowledge.num_images
    assert labels == sorted(labels)
    assert all(0 <= label < knowledge.classes for label in labels)
    return labels


def overlap(found: list[int], labels: list[int]) -> int:
    return sum((Counter(found) & Counter(labels)).values())


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(seed=st.integers(0, 2**20), label=st.integers(0, 9))
@settings(deadline=None, max_examples=3, derandomize=True)
def test_one_label_is_certain_whatever_the_sign_of_the_features(activation: str, seed: int, label: int) -> None:
    model = mlp(activation, bias=False, seed=seed)
    update, knowledge = sent_by(model, [label], seed=seed)
    assert found_in(model, update, knowledge) == [label]
    assert "certain" in infer_labels(model, update, knowledge)[1]


@pytest.mark.slow
@given(seed=st.integers(0, 2**20), classes=st.integers(6, 30), inside=st.integers(1, 40))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_idlgs_criterion_names_the_class_of_any_single_picture_and_none_in_noise(
    seed: int, classes: int, inside: int
) -> None:
    generator = seeded(seed)
    label = int(torch.randint(classes, (1,), generator=generator))
    errors = (torch.randn(classes, generator=generator)).softmax(0) - F.one_hot(torch.tensor(label), classes)
    assert idlg_label(errors[:, None] * torch.randn((1, inside), generator=generator)) == label
    assert idlg_label(torch.randn((classes, 50), generator=generator)) is None


@pytest.mark.slow
@pytest.mark.parametrize("labels", [[3], [0, 1, 2, 9], [4, 4, 4, 7], [5, 5, 5, 5, 5, 5]], ids=str)
@pytest.mark.parametrize("training", [FedSGD(), FedAvg(steps=3, lr=0.01)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_label_counts_are_read_off_the_update(labels: list[int], training: LocalTraining, bias: bool) -> None:
    model = mlp(bias=bias)
    update, knowledge = sent_by(model, labels, training=training)
    assert found_in(model, update, knowledge) == labels
    assert "inferred" in infer_labels(model, update, knowledge)[1]
    assert found_in(model, update, replace(knowledge, obfuscation=None)) == labels


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_more_pictures_than_classes(bias: bool) -> None:
    labels = [0, 0, 0, 1, 2, 2, 3, 3]
    model = mlp("LogSigmoid", bias=bias, classes=4)
    update, knowledge = sent_by(model, labels, classes=4)
    assert found_in(model, update, knowledge) == labels


@pytest.mark.slow
def test_no_label_beyond_the_classes_although_the_model_has_more_outputs() -> None:
    model = mlp(classes=30)
    for obfuscation in ("none", "gaussian:relative=5"):
        update, knowledge = sent_by(model, [0, 3, 3, 7], obfuscation=obfuscation)
        found = found_in(model, update, knowledge)
        assert obfuscation != "none" or found == [0, 3, 3, 7]


OBFUSCATIONS = [
    "topk:density=0.05",
    "topk:density=0.2",
    "topk:density=0.05,scope=update",
    "qsgd:levels=2,norm=max",
    "qsgd:levels=16",
    "uniform:bits=4",
    "sign",
    "ternary",
    "gaussian:relative=1",
    "laplace:relative=1",
    "clip:norm=0.1",
    "dpsgd:clip=1,noise=0.01",
    "topk:density=0.1+qsgd:levels=16,norm=max",
]


@pytest.mark.slow
@pytest.mark.parametrize("obfuscation", OBFUSCATIONS)
def test_a_bias_takes_nothing_away_and_most_labels_come_through(obfuscation: str) -> None:
    labels = [1, 3, 6, 8]
    right = {True: 0, False: 0}
    for seed in range(2):
        for bias in right:
            model = mlp(bias=bias, seed=seed)
            right[bias] += overlap(found_in(model, *sent_by(model, labels, obfuscation=obfuscation, seed=seed)), labels)
    assert right[True] >= right[False] - 2
    assert right[True] >= 6  # of 8; four labels guessed of ten classes give 3.2


@pytest.mark.slow
@pytest.mark.parametrize("obfuscation", ["topk:density=0.1", "sign", "gaussian:relative=1", "none"])
def test_a_channel_that_is_not_known_costs_little(obfuscation: str) -> None:
    labels, right = [1, 3, 3, 8], 0
    for seed in range(2):
        model = mlp(seed=seed)
        update, knowledge = sent_by(model, labels, obfuscation=obfuscation, seed=seed)
        right += overlap(found_in(model, update, replace(knowledge, obfuscation=None, scale=False)), labels)
    assert right >= 6  # of 8


@pytest.mark.slow
@given(seed=st.integers(0, 2**20), factor=st.sampled_from([1e-4, 0.3, 50.0]))
@FEW
def test_where_the_scale_is_not_known_it_does_not_matter(seed: int, factor: float) -> None:
    model = mlp(bias=seed % 2 == 0, seed=seed)
    update, knowledge = sent_by(model, [0, 0, 4, 9], seed=seed)
    knowledge = replace(knowledge, scale=False)
    longer = Update({name: factor * tensor for name, tensor in update.tensors.items()})
    assert found_in(model, longer, knowledge) == found_in(model, update, knowledge)


@pytest.mark.slow
@given(seed=st.integers(0, 2**20))
@FEW
def test_renaming_the_classes_renames_the_labels(seed: int) -> None:
    order = torch.randperm(10, generator=seeded(seed))
    model, other = mlp(seed=seed), mlp(seed=seed)
    with torch.no_grad():  # class order[c] of the one is class c of the other
        other[3].weight.copy_(model[3].weight[order])
        other[3].bias.copy_(model[3].bias[order])
    labels = [2, 5, 5, 6]
    renamed = sorted(int((order == label).nonzero()) for label in labels)
    assert found_in(model, *sent_by(model, labels, seed=seed)) == labels
    assert found_in(other, *sent_by(other, renamed, seed=seed)) == renamed


class HeadFirst(nn.Module):
    """The classifier is declared before the hidden layer, and a layer that nobody uses after both."""

    def __init__(self, inside: nn.Sequential) -> None:
        super().__init__()
        self.out, self.hidden, self.aside = inside[3], inside[1], nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(F.relu(self.hidden(x.flatten(1))))
        return scores


@pytest.mark.slow
def test_the_order_of_declaration_does_not_matter() -> None:
    plain = mlp()
    first = HeadFirst(plain).eval()
    labels = [0, 3, 3, 7]
    assert found_in(first, *sent_by(first, labels)) == found_in(plain, *sent_by(plain, labels)) == labels


class Behind(nn.Module):
    """A network with something behind its scores."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inside, self.change = mlp(), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.inside(x))


class Transposed(nn.Module):
    """Parameters without layers; the last weight is used transposed."""

    def __init__(self) -> None:
        super().__init__()
        plain = mlp()
        self.hidden, self.weight = plain[1], nn.Parameter(plain[3].weight.detach().T.clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.hidden(x.flatten(1))) @ self.weight


def normed() -> nn.Module:
    model = mlp(bias=False)
    weight_norm(model[3])
    return model


HEADS: dict[str, Callable[[], nn.Module]] = {
    "log-softmax": lambda: Behind(lambda scores: scores.log_softmax(1)),
    "temperature": lambda: Behind(lambda scores: 3 * scores),
    "soft cap": lambda: Behind(lambda scores: 3 * torch.tanh(scores / 3)),
    "transposed": Transposed,
    "weight norm": normed,
    "double precision": lambda: mlp().double(),
    "averaged convolution": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "flattened convolution": lambda: nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()),
    "batch norm behind": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.BatchNorm1d(10)),
}


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_the_last_layer_may_be_of_many_kinds(head: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        model = HEADS[head]().eval()
    labels = [0, 3, 3, 7]
    assert found_in(model, *sent_by(model, labels)) == labels


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name != "without gradient"][::3])
def test_the_labels_of_every_network_of_the_zoo(name: str) -> None:
    model = zoo.build(name)
    update, knowledge = sent_by(model, [0, 3, 3, 4], classes=zoo.CLASSES)
    assert found_in(model, update, knowledge) == [0, 3, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["3.weight", "3.bias"])
def test_a_part_of_the_last_layer_is_enough(kept: str) -> None:
    model = mlp()
    update, knowledge = sent_by(model, [0, 3, 3, 7])
    part = Update({kept: update.tensors[kept]})
    assert found_in(model, part, knowledge) == [0, 3, 3, 7]
    assert kept in infer_labels(model, part, knowledge)[1]


def test_what_cannot_be_told_is_one_clear_sentence() -> None:
    model = mlp()
    update, knowledge = sent_by(model, [0, 3, 3, 7])
    body = Update({name: t for name, t in update.tensors.items() if name.startswith("1.")})
    with pytest.raises(UsageError, match=r"nothing was sent of the layer that gives the class scores \(3\.weight"):
        infer_labels(model, body, knowledge)
    for parameter in model[3].parameters():
        parameter.requires_grad_(False)
    frozen, knowledge = sent_by(model, [0, 3, 3, 7])
    with pytest.raises(UsageError, match="frozen or left out"):
        attack_of("rog")(model, frozen, knowledge, generator=seeded(0))
    mixed = Behind(lambda scores: scores.softmax(1)).eval()
    with pytest.raises(UsageError, match="no layer with a row of its own"):
        infer_labels(mixed, *sent_by(mixed, [0, 3, 3, 7]))


def test_where_nothing_of_the_last_layer_arrived_the_labels_are_a_guess_that_says_so() -> None:
    model = mlp()
    update, knowledge = sent_by(model, [0, 3, 3, 7])
    silent = {n: t * (not n.startswith("3.")) for n, t in update.tensors.items()}
    labels, note = infer_labels(model, Update(silent), replace(knowledge, num_images=13))
    assert len(labels) == 13
    assert "guessed" in note


class Draws(nn.Module):
    """Noise on the hidden layer, in every mode, from three global generators."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = mlp()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inside[1](x.flatten(1))
        noise = torch.randn_like(hidden) * random.random() * float(np.random.random())
        scores: Tensor = self.inside[3](F.relu(hidden + 0.1 * noise))
        return scores


@pytest.mark.slow
def test_neither_the_model_nor_any_global_generator_notices() -> None:
    model = Draws().eval()
    update, knowledge = sent_by(model, [0, 3, 3, 7], obfuscation="qsgd:levels=4,norm=max")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    received = {name: t.clone() for name, t in update.tensors.items()}
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # beartype draws Python's
        found.append(infer_labels(model, update, knowledge))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(torch.equal(t, received[name]) for name, t in update.tensors.items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
@given(seed=st.integers(0, 2**20), cases=st.integers(1, 3), classes=st.integers(1, 4), n=st.integers(1, 5))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_counts_cost_least_of_all(seed: int, cases: int, classes: int, n: int) -> None:
    costs = torch.rand((cases, classes, n + 1), generator=seeded(seed), dtype=torch.double)
    counts, totals = cheapest_counts(costs)

    def all_of(classes: int, left: int) -> list[list[int]]:
        if classes == 1:
            return [[left]]
        return [[k, *rest] for k in range(left + 1) for rest in all_of(classes - 1, left - k)]

    for case in range(cases):
        every = {tuple(c): float(sum(costs[case, i, k] for i, k in enumerate(c))) for c in all_of(classes, n)}
        assert float(totals[case]) == pytest.approx(min(every.values()))
        assert every[tuple(counts[case].tolist())] == pytest.approx(min(every.values()))
        near = [total for c, total in every.items() if sum(abs(np.array(c) - counts[case].numpy())) == 2]
        least = min(near, default=float("inf")) - min(every.values())
        assert margin(costs[case], counts[case]) == pytest.approx(least)


@pytest.mark.slow
@given(seed=st.integers(0, 2**20))
@FEW
def test_the_slopes_of_the_rows_are_what_goes_into_the_layer(seed: int) -> None:
    model = mlp("Tanh", seed=seed)
    images = public_pictures(SHAPE)
    rows = read_rows(model, images, dict(model.named_parameters()), mode="eval", draws=None)
    features = model[:3](images).detach()
    assert list(rows.shapes) == ["3.weight", "3.bias"]
    assert torch.allclose(rows.slopes[:, 0], torch.cat([features, torch.ones(len(images), 1)], 1), atol=1e-4)
    assert torch.allclose(rows.scores, model(images))
    back = rows.tensors(rows.values)
    assert all(torch.equal(back[name], dict(model.named_parameters())[name]) for name in back)


@pytest.mark.slow
@pytest.mark.parametrize(
    "training", [FedSGD(mode="train", buffers="sent"), FedAvg(steps=2, lr=0.1, mode="train", buffers="sent")]
)
def test_labels_of_a_client_that_sends_buffers_are_inferred(training: LocalTraining) -> None:
    """The last layer, on which the attacker rehearses, has no buffers that could change."""
    model, batch = small_client()
    model.features.insert(1, nn.BatchNorm2d(4))
    client = Client(model, batch.images, batch.labels, training=training)
    knowledge = replace(client.knowledge(), labels=None)
    assert infer_labels(model, client.update(), knowledge)[0].tolist() == sorted(batch.labels.tolist())
