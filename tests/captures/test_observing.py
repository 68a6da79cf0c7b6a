"""What the observer says of a client's training, against what the client's code says itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from seeds import seeded
from unveil.captures.observed_facts import buffers_of, facts_of, seen_of
from unveil.captures.observing import Observer
from unveil.captures.slopes import loss_of

IMAGES = torch.rand((10, 3, 8, 8), generator=seeded(0)) * 2 - 1
LABELS = torch.randint(5, (10,), generator=seeded(1))

Criterion = Callable[[Tensor, Tensor], Tensor]


def net(*extra: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *extra, nn.Flatten(), nn.Linear(144, 5))


def train(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    criterion: Criterion = F.cross_entropy,
    *,
    epochs: int = 1,
    images: int = 10,
    batch_size: int = 4,
    accumulate: int = 1,
    shuffle: bool = False,
) -> None:
    """A loop such as users write."""
    loader = DataLoader(TensorDataset(IMAGES[:images], LABELS[:images]), batch_size=batch_size, shuffle=shuffle)
    for _ in range(epochs):
        for number, (x, y) in enumerate(loader):
            (criterion(model(x), y) / accumulate).backward()
            if (number + 1) % accumulate == 0:
                optimiser.step()
                optimiser.zero_grad()


def observed(model: nn.Module, optimiser: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> dict[str, Any]:
    with Observer() as observer:
        train(model, optimiser, *args, **kwargs)
    return {name: fact.value for name, fact in facts_of(observer.steps).items()}


def sgd(model: nn.Module, lr: float = 0.01, **kwargs: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, **kwargs)


def test_all_that_a_plain_training_shows() -> None:
    model = net(nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Dropout(0.0))
    facts = observed(model, sgd(model, momentum=0.9, weight_decay=0.001), nn.CrossEntropyLoss(), epochs=2)
    assert facts == {
        "model": "torch.nn.modules.container:Sequential",
        "learning_rate": 0.01,
        "optimiser": "sgd",
        "momentum": 0.9,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.001,
        "steps": 6,
        "epochs": 2,
        "batch_size": 4,
        "examples": 10,
        "loss": "cross_entropy",
        "loss_reduction": "mean",
        "label_smoothing": 0.0,
        "mode": "train",
        "dropout": 1,
        "input_range": (float(IMAGES.min()), float(IMAGES.max())),
        "image_shape": (3, 8, 8),
        "classes": 5,
    }


@pytest.mark.parametrize(
    ("criterion", "loss", "reduction"),
    [
        (F.cross_entropy, "cross_entropy", "mean"),
        (nn.CrossEntropyLoss(reduction="sum"), "cross_entropy", "sum"),
        (lambda logits, y: F.nll_loss(logits.log_softmax(1), y), "cross_entropy", "mean"),
        (lambda logits, y: 3 * F.cross_entropy(logits, y), "cross_entropy", None),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "cross_entropy", "mean"),
        (nn.CrossEntropyLoss(label_smoothing=0.45, reduction="sum"), "cross_entropy", "sum"),
        (lambda logits, y: 3 * F.cross_entropy(logits, y, label_smoothing=0.1), "other", None),
        (nn.CrossEntropyLoss(weight=torch.arange(1.0, 6.0)), "other", None),
        (lambda logits, y: F.mse_loss(logits, F.one_hot(y, 5).float()), "other", None),
    ],
)
def test_the_loss_is_told_however_it_is_written(criterion: Criterion, loss: str, reduction: str | None) -> None:
    model = net()
    facts = observed(model, sgd(model, lr=0.001), criterion)
    assert (facts["loss"], facts.get("loss_reduction")) == (loss, reduction)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("scale", [0.1, 20.0], ids=["unsure", "certain"])
def test_label_smoothing_is_told_from_the_slope(share: float, scale: float) -> None:
    logits = (scale * torch.randn(6, 5, generator=seeded(1))).requires_grad_()
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    F.cross_entropy(logits, labels, label_smoothing=share).backward()
    assert logits.grad is not None
    found = loss_of(logits.detach(), logits.grad)
    assert found is not None
    assert (found.label_smoothing, found.labels.tolist()) == (share, labels.tolist())
    assert found.weight == pytest.approx(1 / 6, rel=1e-4)


def test_gradients_that_are_added_up_are_one_step_of_a_larger_batch() -> None:
    model = net()
    facts = observed(model, sgd(model), images=8, batch_size=2, accumulate=2)
    assert (facts["steps"], facts["batch_size"], facts["loss_reduction"], facts["epochs"]) == (2, 4, "mean", 1)


@pytest.mark.parametrize(
    ("make", "optimiser", "momentum"),
    [
        (lambda p: torch.optim.Adam(p, lr=0.01), "adam", None),
        (lambda p: torch.optim.AdamW(p, lr=0.01), "adamw", None),
        (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5, nesterov=True), "sgd", 0.5),
        (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5, dampening=0.1), "sgd", 0.5),
        (lambda p: torch.optim.SGD(p, lr=torch.tensor(0.01), maximize=True), "sgd, maximising", 0.0),
    ],
)
def test_optimisers_are_told_apart(make: Callable[..., Any], optimiser: str, momentum: float | None) -> None:
    model = net()
    facts = observed(model, make(model.parameters()))
    assert (facts["optimiser"], facts.get("momentum")) == (optimiser, momentum)
    assert facts["learning_rate"] == pytest.approx(0.01)


def test_nesterov_and_dampening_are_facts_of_their_own() -> None:
    model = net()
    facts = observed(model, sgd(model, momentum=0.5, nesterov=True))
    assert (facts["nesterov"], facts["dampening"]) == (True, 0.0)
    facts = observed(model, sgd(model, momentum=0.5, dampening=0.25))
    assert (facts["nesterov"], facts["dampening"]) == (False, 0.25)


def test_momentum_that_is_carried_over_is_said() -> None:
    model = net()
    optimiser = sgd(model, momentum=0.9)
    assert observed(model, optimiser)["optimiser"] == "sgd"
    assert observed(model, optimiser)["optimiser"] == "sgd, momentum carried over"


def test_what_is_not_the_same_throughout_stays_unknown() -> None:
    model = net(nn.BatchNorm2d(4), nn.Dropout(0.5))
    model[1].eval()  # type: ignore[index]
    groups = [{"params": list(model[0].parameters()), "lr": 0.1}, {"params": list(model[-1].parameters())}]  # type: ignore[index]
    facts = observed(model, torch.optim.SGD(groups, lr=0.01))
    assert "learning_rate" not in facts
    assert "mode" not in facts
    assert facts["momentum"] == 0


def test_evaluation_between_steps_is_no_training() -> None:
    model = net()
    with Observer() as observer:
        model.eval()
        model(IMAGES)  # with gradients, which nobody asks for
        with torch.no_grad():
            model(IMAGES)
        model.train()
        train(model, sgd(model), images=4)
    facts = facts_of(observer.steps)
    assert (facts["examples"].value, facts["mode"].value) == (4, "train")


def test_pictures_and_labels_are_kept_only_when_asked_for() -> None:
    model = net()
    with Observer(keep_pictures=True) as observer:
        train(model, sgd(model), epochs=2, shuffle=True)
    seen = seen_of(observer.steps)
    assert seen.passes == 2
    kept = {key.hex(): image for key, image in observer.pictures.items()}
    labels = {key.hex(): label for key, label in seen.labels.items()}
    order = [next(n for n in range(10) if torch.equal(kept[key], IMAGES[n])) for key in labels]
    assert sorted(order) == list(range(10))
    assert list(labels.values()) == LABELS[order].tolist()
    with Observer() as observer:
        train(model, sgd(model))
    assert observer.pictures == {}


def test_another_thread_is_observed_only_when_asked_for() -> None:
    model = net()
    for all_threads, steps in ((False, 0), (True, 3)):
        with Observer(all_threads=all_threads) as observer:
            thread = threading.Thread(target=train, args=(model, sgd(model)))
            thread.start()
            thread.join()
        assert len(observer.steps) == steps


def test_no_hook_is_left_behind() -> None:
    model = net()
    with pytest.raises(ZeroDivisionError), Observer() as observer:
        raise ZeroDivisionError
    train(model, sgd(model))
    assert observer.steps == []


def test_an_error_inside_the_network_leaves_the_count_of_depth_right() -> None:
    model = net()
    with Observer() as observer:
        with pytest.raises(RuntimeError):
            model(IMAGES[:, :2])
        train(model, sgd(model), images=4)
    assert facts_of(observer.steps)["examples"].value == 4


def test_a_training_without_pictures_says_only_what_the_optimiser_says() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimiser = torch.optim.SGD([weight], lr=0.1)
    with Observer() as observer:
        weight.sum().backward()
        optimiser.step()
    settings = {"learning_rate", "optimiser", "momentum", "dampening", "nesterov", "weight_decay", "steps"}
    assert set(facts_of(observer.steps)) == settings
    assert facts_of([]) == {}


def test_whether_buffers_are_sent_is_seen_by_their_names() -> None:
    model = net(nn.BatchNorm2d(4))
    with Observer() as observer:
        train(model, sgd(model))
    assert buffers_of(observer.steps, model.state_dict()) == "sent"
    assert buffers_of(observer.steps, dict(model.named_parameters())) == "kept"
    assert buffers_of([], model.state_dict()) is None


def test_no_mark_of_a_hook_is_left_behind() -> None:
    with Observer() as observer:
        assert observer.steps == []
        assert torch.nn.modules.module._has_any_global_hook()
    assert not torch.nn.modules.module._has_any_global_hook()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
def test_a_compiled_network_is_observed() -> None:
    model = net(nn.BatchNorm2d(4))
    facts = observed(torch.compile(model, backend="eager"), sgd(model), images=8)
    assert (facts["steps"], facts["examples"], facts["loss"]) == (2, 8, "cross_entropy")
    assert facts["model"] == "torch.nn.modules.container:Sequential"


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float64, 1.0), (torch.float32, 30.0), (torch.float16, 3.0)])
def test_labels_and_weight_by_autograd(dtype: torch.dtype, scale: float) -> None:
    logits = (scale * torch.randn((6, 5), generator=seeded(2))).to(dtype).requires_grad_()
    labels = torch.randint(5, (6,), generator=seeded(3))
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    found = loss_of(logits.detach(), slope)
    assert found is not None
    assert found.labels.tolist() == labels.tolist()
    assert found.weight == pytest.approx(1, rel=1e-2)
    assert loss_of(logits.detach(), -slope) is None
    assert loss_of(logits.detach()[0], slope[0]) is None
