"""The law of the client: for networks of every kind, what unveil computes is what torch computes."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instances import first_of_each
from seeds import seeded
from unveil.clients.training import FedAvg, FedSGD
from unveil.core import gradient
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.factored import dense
from unveil.core.network import Mode, seed_of
from unveil.core.usercode import own_randomness
from zoo import CLASSES, SIZE, ZOO, build

everyone = pytest.mark.parametrize("name", ZOO)
modes = pytest.mark.parametrize("mode", ["eval", "train"])


def batch_of(n: int = 4) -> Batch:
    images = torch.rand((n, 3, SIZE, SIZE), generator=seeded(1))
    return Batch(images, torch.randint(CLASSES, (n,), generator=seeded(2)))


def doubled(name: str, batch: Batch) -> tuple[nn.Module, Batch]:
    """In double precision, in which local steps can be compared: single precision loses them beside the weights."""
    if name in ("a double layer", "a bfloat16 layer", "autocast"):
        return build(name), batch  # these have a precision of their own
    return build(name).double(), Batch(batch.images.double(), batch.labels)


def by_autograd(name: str, batch: Batch, mode: Mode) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy, on a network that nobody else touches."""
    model = build(name).train(mode == "train")
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    with own_randomness(0):
        loss = F.cross_entropy(model(batch.images.clone()), batch.labels)
    slopes = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {key: torch.zeros_like(p) if g is None else g for (key, p), g in zip(trained.items(), slopes, strict=True)}


def by_sgd(name: str, batch: Batch, training: FedAvg) -> dict[str, Tensor]:
    """What FedAvg sends, by torch's own SGD."""
    model, batch = doubled(name, batch)
    model.train(training.mode == "train")
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    before = {key: p.detach().clone() for key, p in trained.items()}
    sgd = torch.optim.SGD(
        trained.values(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    size, steps = training.batch_size or len(batch), training.steps or 0
    rows = [part for _ in range(steps) for part in torch.arange(len(batch)).split(size)][:steps]
    for step, part in enumerate(rows):
        for p in trained.values():  # an unused parameter is decayed too, as in the update that is sent
            p.grad = torch.zeros_like(p)
        with own_randomness(seed_of(0, step) or 0):
            F.cross_entropy(model(batch.images[part].clone()), batch.labels[part]).backward()
        sgd.step()
    return {key: before[key] - p.detach() for key, p in trained.items()}


def off(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """The largest relative error of a tensor; relative to the whole update where a tensor is next to nothing."""
    assert list(got) == list(want)
    whole = torch.stack([w.double().norm() for w in want.values()]).norm()
    errors = [
        (dense(got[k]).detach().double() - w.double()).norm() / torch.maximum(w.double().norm(), 1e-2 * whole)
        for k, w in want.items()
    ]
    return float(torch.stack(errors).max())


@pytest.fixture(params=[1, 1 << 40], ids=["thin", "plain"])
def worth_it(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "WORTH_IT", request.param)


@pytest.mark.slow
@everyone
@modes
def test_the_gradient_is_that_of_autograd(name: str, mode: Mode, worth_it: None) -> None:
    batch = batch_of()
    want = by_autograd(name, batch, mode)
    assert max(float(t.abs().max()) for t in want.values()) > 0
    assert off(dict(FedSGD(mode=mode)(build(name), batch)), want) < 1e-5
    assert off(dict(FedSGD(mode=mode).simulate(build(name), batch)), want) < 1e-5


@pytest.mark.slow
@everyone
@pytest.mark.parametrize(
    "training",
    [
        FedAvg(steps=3, lr=0.5, mode="eval"),
        FedAvg(steps=3, lr=0.1, batch_size=2, momentum=0.9, mode="train"),
        FedAvg(steps=2, lr=0.1, momentum=0.5, weight_decay=0.1, mode="train"),
    ],
    ids=["steps", "mini-batches", "decay"],
)
def test_local_steps_are_those_of_torchs_sgd(name: str, training: FedAvg, worth_it: None) -> None:
    model, batch = doubled(name, batch_of())
    assert off(dict(training(model, batch)), by_sgd(name, batch_of(), training)) < 1e-5


@pytest.mark.slow
@everyone
@modes
def test_nothing_of_the_model_or_of_the_world_changes(name: str, mode: Mode) -> None:
    model, batch = build(name), batch_of()
    pictures, state = batch.images.clone(), copy.deepcopy(dict(model.state_dict()))
    flags = [module.training for module in model.modules()]
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    training = FedAvg(steps=2, lr=0.1, mode=mode)
    first = training(model, batch)
    drawn = float(torch.rand(())), random.random(), float(np.random.random())
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    assert drawn == (float(torch.rand(())), random.random(), float(np.random.random()))
    second = training(model, batch)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(batch.images, pictures)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "mode", "by_chance"),
    first_of_each(
        [
            ("dropout", "train", True),
            ("dropout", "eval", False),
            ("dropout in eval mode", "eval", True),
            ("stochastic depth", "eval", True),
            ("noise", "eval", True),
            ("transformer with dropout", "train", True),
            ("sequential", "train", False),
        ],
        lambda case: case[2],
    ),
)
def test_steps_and_examples_have_draws_of_their_own_and_the_mean_has_none(
    name: str, mode: Mode, by_chance: bool
) -> None:
    model, batch = build(name), batch_of()
    same = Batch(batch.images[:1].expand(2, -1, -1, -1).contiguous(), batch.labels[:1].expand(2))
    clipped = FedSGD(mode=mode, clip=1e6)

    def alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
        return off(a, b) < 1e-5

    one = dict(clipped(model, Batch(same.images[:1], same.labels[:1])))
    assert alike(dict(clipped(model, same)), one) is not by_chance  # two examples that differ by their draws alone
    twice = {key: 2 * value for key, value in FedAvg(steps=1, lr=1e-6, mode=mode)(model, batch).items()}
    assert alike(dict(FedAvg(steps=2, lr=1e-6, mode=mode)(model, batch)), twice) is not by_chance
    drawn = [dict(FedSGD(mode=mode)(model, batch, generator=seeded(k))) for k in (1, 2, 1)]
    assert alike(drawn[0], drawn[1]) is not by_chance
    assert alike(drawn[0], drawn[2])
    means = [FedSGD(mode=mode).simulate(model, batch, draws=None) for _ in range(2)]
    assert alike(dict(means[0]), dict(means[1]))


@pytest.mark.slow
def test_the_mean_of_draws_is_the_mean_of_what_is_drawn() -> None:
    model, batch = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(192, CLASSES)), batch_of()
    seen: list[Tensor] = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    training = FedSGD(mode="train")
    training.simulate(model, batch, draws=None)
    for draws in range(400):
        training.simulate(model, batch, draws=draws)
    expected, drawn = seen[0], torch.stack(seen[1:])
    spread = drawn.std(0) / 400**0.5
    assert float(((drawn.mean(0) - expected).abs() / spread.clamp_min(1e-6)).max()) < 6


def test_checkpointed_parts_are_refused_where_their_gradient_would_be_lost() -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(192, 8), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = checkpoint(self.a, x.flatten(1), use_reentrant=False)
            return self.b(h)

    with pytest.raises(UsageError, match=r"checkpoint.*test_own_networks\.py, line"):
        FedSGD()(Checkpointed(), batch_of())


class Broken(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.f, self.error = nn.Linear(192, CLASSES), error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("error", [KeyError("width"), RuntimeError("a\nb"), ZeroDivisionError()], ids=repr)
def test_an_error_of_the_users_code_names_itself_and_its_place(error: Exception) -> None:
    with pytest.raises(UsageError, match=rf"raised {type(error).__name__}: .*\(.*test_own_networks\.py, line \d+\)"):
        FedSGD()(Broken(error), batch_of())
