"""Local training is one differentiable operator that never changes the model."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fakes import small_client
from instances import first_of_each
from seeds import seeded
from unveil.clients.training import CATALOGUE, FedAvg, FedSGD, parse
from unveil.core import gradient
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.factored import Factored, dense, square_distance
from unveil.core.protocols import LocalTraining

TRAININGS = [
    FedSGD(),
    FedSGD(mode="train"),
    FedSGD(clip=0.5),
    FedAvg(steps=1, lr=0.1),
    FedAvg(steps=5, lr=0.1),
    FedAvg(epochs=2, batch_size=3, lr=0.1, shuffle=1),
    FedAvg(steps=4, batch_size=3, lr=0.1, momentum=0.9),
    FedAvg(steps=3, lr=0.1, momentum=0.5, weight_decay=0.01),
    FedAvg(steps=2, lr=0.1, clip=0.5),
    FedAvg(epochs=2, batch_size=3, drop_last=True, lr=0.1, momentum=0.9, nesterov=True),
    FedAvg(steps=3, lr=0.1, momentum=0.9, dampening=0.3, reduction="sum", label_smoothing=0.1),
    FedSGD(reduction="sum", label_smoothing=0.2),
    FedSGD(loss="bce", label_smoothing=0.2),
    FedAvg(steps=2, lr=0.1, loss="mse"),
    FedAvg(steps=2, lr=0.1, clip=0.5, expected=3),
]


class NormNet(nn.Module):
    """BatchNorm and dropout: everything that a client in train mode does behind one's back."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.fixture
def everything_thin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "WORTH_IT", 1)


def reference(model: nn.Module, batch: Batch, training: FedAvg) -> dict[str, Tensor]:
    """FedAvg by torch's own SGD on a copy of the model."""
    client = copy.deepcopy(model)
    optimiser = torch.optim.SGD(
        client.parameters(),
        lr=training.lr,
        momentum=training.momentum,
        dampening=training.dampening,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
    )
    loss = nn.CrossEntropyLoss(reduction=training.reduction, label_smoothing=training.label_smoothing)
    pictures = TensorDataset(batch.images, batch.labels)
    loader = DataLoader(pictures, training.batch_size or len(batch), drop_last=training.drop_last)
    for images, labels in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), training.steps):
        optimiser.zero_grad()
        loss(client(images), labels).backward()
        optimiser.step()
    return {n: p.detach() - q.detach() for (n, p), q in zip(model.named_parameters(), client.parameters(), strict=True)}


@pytest.mark.parametrize("training", first_of_each(TRAININGS, type), ids=str)
def test_the_model_and_the_random_state_stay_as_they_were(training: LocalTraining) -> None:
    model = small_client()[0] if getattr(training, "clip", None) else NormNet()
    batch = small_client()[1]
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    training(model, batch)
    training.simulate(model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("training", first_of_each(TRAININGS, type), ids=str)
def test_attacker_and_client_run_the_same_operator(training: LocalTraining) -> None:
    model, batch = small_client()
    sent = training(model, batch)
    simulated = training.simulate(model, batch)
    assert list(sent) == list(simulated) == [name for name, _ in model.named_parameters()]
    for name, tensor in sent.items():
        assert not tensor.requires_grad
        torch.testing.assert_close(dense(simulated[name]).detach(), tensor)


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS, ids=str)
def test_thin_and_plain_gradients_agree_to_their_slopes(
    training: LocalTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = small_client()
    model.double()
    images = batch.images.double().requires_grad_()
    target = training(model, Batch(images.detach() * 0.9, batch.labels))
    values, slopes = [], []
    for worth_it in (1, 1 << 40):
        monkeypatch.setattr(gradient, "WORTH_IT", worth_it)
        candidate = training.simulate(model, Batch(images, batch.labels))
        expected = worth_it == 1 and not getattr(training, "weight_decay", 0)
        assert any(isinstance(value, Factored) for value in candidate.values()) == expected
        value = sum(square_distance(candidate[n], y, y.square().sum()) for n, y in target.items())
        assert isinstance(value, Tensor)
        values.append(value.detach())
        slopes.append(torch.autograd.grad(value, images)[0])
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(slopes[0], slopes[1])


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS, ids=str)
def test_gradcheck(training: LocalTraining, everything_thin: None) -> None:
    model, batch = small_client(n=3, size=4)
    model.double()

    def update(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(dense(v) for v in training.simulate(model, Batch(images, batch.labels)).values())

    assert torch.autograd.gradcheck(update, batch.images.double().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize(
    "training",
    first_of_each(
        [
            FedAvg(steps=5, lr=0.1),
            FedAvg(steps=7, lr=0.1, batch_size=3, momentum=0.9),
            FedAvg(steps=3, lr=0.1, momentum=0.5, weight_decay=0.1),
            FedAvg(steps=4, lr=0.1, momentum=0.9, nesterov=True),
            FedAvg(steps=3, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
            FedAvg(steps=4, lr=0.1, momentum=0.9, dampening=0.3),
            FedAvg(steps=3, lr=0.1, momentum=0.9, dampening=1.0, weight_decay=0.1),
            FedAvg(steps=3, lr=0.02, batch_size=3, reduction="sum"),
            FedAvg(steps=3, lr=0.1, label_smoothing=0.3),
            FedAvg(steps=5, lr=0.1, batch_size=3, drop_last=True, momentum=0.9),
        ],
        lambda training: training.momentum > 0,
    ),
    ids=str,
)
def test_fedavg_is_torchs_sgd(training: FedAvg, everything_thin: None) -> None:
    model, batch = small_client()
    model.double()
    batch = Batch(batch.images.double(), batch.labels)
    for name, tensor in reference(model, batch, training).items():
        torch.testing.assert_close(training(model, batch)[name], tensor)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_fedsgd_is_the_gradient_of_torchs_loss(reduction: Literal["mean", "sum"]) -> None:
    model, batch = small_client()
    loss = nn.CrossEntropyLoss(reduction=reduction, label_smoothing=0.2)
    loss(model(batch.images), batch.labels).backward()
    sent = FedSGD(reduction=reduction, label_smoothing=0.2)(model, batch)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(sent[name], parameter.grad)


def test_a_last_small_batch_is_left_out_in_every_epoch() -> None:
    model, batch = small_client()
    alone = FedAvg(epochs=2, batch_size=3, drop_last=True, lr=0.1)(model, batch)
    first_three = Batch(batch.images[:3], batch.labels[:3])
    for name, tensor in FedAvg(steps=2, lr=0.1)(model, first_three).items():
        torch.testing.assert_close(alone[name], tensor)
    with pytest.raises(UsageError, match="4 pictures give no mini-batch of 5; leave drop_last out"):
        FedAvg(epochs=1, batch_size=5, drop_last=True, lr=0.1)(model, batch)
    assert FedAvg(epochs=3, batch_size=3, drop_last=True, lr=0.1).shortened(4).steps == 1


def test_one_step_of_fedavg_is_lr_times_fedsgd() -> None:
    model, batch = small_client()
    gradient_sent, difference = FedSGD()(model, batch), FedAvg(steps=1, lr=0.25)(model, batch)
    for name, tensor in gradient_sent.items():
        torch.testing.assert_close(difference[name], 0.25 * tensor)


def test_shuffling_depends_on_its_seed_alone() -> None:
    model, batch = small_client()
    same = [FedAvg(epochs=1, batch_size=1, lr=0.5, shuffle=s)(model, batch)["head.weight"] for s in (1, 1, 2)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_train_mode_uses_the_batchs_own_statistics() -> None:
    model, batch = NormNet(), small_client()[1]
    model.body[3] = nn.Identity()
    model.body[1].running_mean.fill_(5.0)
    client = copy.deepcopy(model).train()
    F.cross_entropy(client(batch.images), batch.labels).backward()
    sent = FedSGD(mode="train")(model, batch)
    torch.testing.assert_close(sent["body.0.weight"], client.body[0].weight.grad)
    assert not torch.allclose(FedSGD(mode="eval")(model, batch)["body.0.weight"], sent["body.0.weight"])


def test_per_example_clipping_bounds_every_example() -> None:
    model, batch = small_client()
    plain = FedSGD()(model, batch)
    assert math.sqrt(sum(float(t.square().sum()) for t in plain.values())) > 0.01
    for i in range(len(batch)):
        one = Batch(batch.images[i : i + 1], batch.labels[i : i + 1])
        clipped = FedSGD(clip=0.01)(model, one)
        assert math.sqrt(sum(float(t.square().sum()) for t in clipped.values())) == pytest.approx(0.01, rel=1e-4)
    loose = FedSGD(clip=1e6)(model, batch)
    for name, tensor in plain.items():
        torch.testing.assert_close(loose[name], tensor)


def test_dp_noise_has_its_size_and_is_the_clients_alone() -> None:
    model, batch = small_client()
    training = FedSGD(clip=1.0, noise=2.0)
    clean = FedSGD(clip=1.0)(model, batch)
    noisy = training(model, batch, generator=seeded(0))
    spread = torch.cat([(noisy[n] - clean[n]).reshape(-1) for n in clean]).std()
    assert float(spread) == pytest.approx(2.0 * 1.0 / len(batch), rel=0.05)
    torch.testing.assert_close(dense(training.simulate(model, batch)["head.weight"]).detach(), clean["head.weight"])
    with pytest.raises(UsageError, match="noise needs a generator"):
        training(model, batch)


def test_the_sum_and_its_noise_are_divided_by_the_expected_batch_size() -> None:
    model, batch = small_client()
    by_number, by_expected = FedSGD(clip=1.0, noise=2.0), FedSGD(clip=1.0, noise=2.0, expected=10)
    for name, sent in by_number(model, batch, generator=seeded(0)).items():
        other = by_expected(model, batch, generator=seeded(0))[name]
        torch.testing.assert_close(other, sent * len(batch) / 10)
    steps = FedAvg(steps=1, lr=1.0, clip=1.0, noise=2.0, expected=10)(model, batch, generator=seeded(0))
    for name, sent in by_expected(model, batch, generator=seeded(0)).items():
        torch.testing.assert_close(steps[name], sent)


def test_a_sum_of_clipped_gradients_is_not_divided() -> None:
    model, batch = small_client()
    summed = FedSGD(clip=0.01, noise=2.0, reduction="sum")(model, batch, generator=seeded(0))
    for name, tensor in FedSGD(clip=0.01, noise=2.0)(model, batch, generator=seeded(0)).items():
        torch.testing.assert_close(summed[name], tensor * len(batch))


def test_a_weight_used_outside_its_layer_is_not_kept_thin(everything_thin: None) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)) + 0.1 * (x.flatten(1) @ self.layer.weight.T)

    model, batch = Tied(), small_client()[1]
    client = copy.deepcopy(model)
    F.cross_entropy(client(batch.images), batch.labels).backward()
    candidate = FedSGD().simulate(model, batch)
    assert isinstance(candidate["layer.weight"], Tensor)
    torch.testing.assert_close(candidate["layer.weight"].detach(), client.layer.weight.grad)


def test_a_layer_used_twice_sums_its_factors(everything_thin: None) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(192, 192), nn.Linear(192, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(torch.tanh(self.layer(x.flatten(1)))))

    model, batch = Twice(), small_client()[1]
    client = copy.deepcopy(model)
    F.cross_entropy(client(batch.images), batch.labels).backward()
    candidate = FedSGD().simulate(model, batch)
    assert isinstance(candidate["layer.weight"], Factored)
    torch.testing.assert_close(dense(candidate["layer.weight"]).detach(), client.layer.weight.grad)


@pytest.mark.parametrize("spec", ["fedsgd", "fedsgd:mode=train", "fedavg:steps=5,lr=0.003", "fedavg:epochs=2,lr=0.1"])
def test_a_printed_training_gives_its_spec_back(spec: str) -> None:
    assert str(parse(spec)) == spec
    assert spec.partition(":")[0] in CATALOGUE


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fedavg:lr=0.1", "FedAvg: expected either steps or epochs"),
        ("fedavg:steps=1,epochs=1,lr=0.1", "exactly one"),
        ("fedavg:steps=0,lr=0.1", "expected steps >= 1, got 0"),
        ("fedavg:steps=1,lr=0", "expected lr > 0"),
        ("fedavg:steps=1", "needs lr"),
        ("fedavg:steps=1,lr=0.1,momentum=1", "0 <= momentum < 1"),
        ("fedavg:steps=1,lr=0.1,weight_decay=-1", "weight_decay >= 0"),
        ("fedavg:steps=1,lr=0.1,batch_size=0", "batch_size >= 1"),
        ("fedavg:stpes=1,lr=0.1", "did you mean 'steps'"),
        ("fedavgg:steps=1,lr=0.1", "did you mean 'fedavg'"),
        ("fedsgd:clip=0", "expected clip > 0"),
        ("fedsgd:noise=1", "give clip as well"),
        ("fedsgd:clip=1,noise=-1", "expected noise >= 0"),
        ("fedsgd:mode=test", "mode=test does not fit"),
        ("fedavg:steps=1,lr=0.1,nesterov=true", "nesterov needs momentum"),
        ("fedavg:steps=1,lr=0.1,nesterov=true,momentum=0.9,dampening=0.1", "no dampening"),
        ("fedavg:steps=1,lr=0.1,momentum=0.9,dampening=2", "0 <= dampening <= 1"),
        ("fedavg:steps=1,lr=0.1,dampening=0.5", "dampening has no effect without momentum"),
        ("fedavg:steps=1,lr=0.1,drop_last=true", "give a batch_size"),
        ("fedavg:steps=1,lr=0.1,label_smoothing=1", "0 <= label_smoothing < 1"),
        ("fedsgd:label_smoothing=-0.1", "0 <= label_smoothing < 1"),
        ("fedsgd:reduction=max", "reduction=max does not fit"),
        ("fedsgd:clip=1,expected=0", "expected `expected` > 0, got 0; it is the expected batch size"),
        ("fedsgd:expected=8", "give clip as well"),
        ("fedavg:steps=1,lr=1,expected=8", "give clip as well"),
        ("fedsgd:clip=1,expected=8,reduction=sum", "leave expected or reduction=sum out"),
    ],
)
def test_bad_settings_are_one_clear_sentence(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(spec)


def test_bad_models_and_labels_are_one_clear_sentence() -> None:
    model, batch = small_client()
    with pytest.raises(UsageError, match="label 10 is out of range for a model with 10 outputs"):
        FedSGD()(model, Batch(batch.images, torch.tensor([0, 1, 2, 10])))
    with pytest.raises(UsageError, match="expected an output of 4 x classes"):
        FedSGD()(nn.Conv2d(3, 4, 3), batch)
    with pytest.raises(UsageError, match="BatchNorm in train mode"):
        FedSGD(mode="train", clip=1.0)(NormNet(), batch)
    with pytest.raises(UsageError, match="one label a picture"):
        Batch(batch.images, batch.labels[:2])
