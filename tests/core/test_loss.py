"""Each loss is torch's, its slope is autograd's, and chance is the least loss of scores that say nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from seeds import seeded
from unveil.core.errors import UsageError
from unveil.core.loss import LOSSES, Loss, LossName, Reduction

CLASSES = 5
TORCHS = {"bce": nn.BCEWithLogitsLoss, "mse": nn.MSELoss}


def scored(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    return torch.randn((4, CLASSES), generator=generator, dtype=torch.float64), torch.tensor([0, 3, 3, 1])


def torchs(name: str, reduction: Reduction, smoothing: float, scores: Tensor, labels: Tensor) -> Tensor:
    if name == "cross_entropy":
        value: Tensor = nn.CrossEntropyLoss(reduction=reduction, label_smoothing=smoothing)(scores, labels)
        return value
    wanted = one_hot(labels, CLASSES).double() * (1 - smoothing) + smoothing / CLASSES
    found: Tensor = TORCHS[name](reduction=reduction)(scores, wanted)
    return found


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_loss_is_torchs_and_its_slope_autograds(name: LossName, reduction: Reduction, smoothing: float) -> None:
    scores, labels = scored()
    loss = Loss(name=name, reduction=reduction, label_smoothing=smoothing)
    torch.testing.assert_close(loss(scores, labels), torchs(name, reduction, smoothing, scores, labels))
    scores.requires_grad_()
    (slope,) = torch.autograd.grad(torchs(name, reduction, smoothing, scores, labels), scores)
    pictures = len(scores) if reduction == "mean" else 1
    torch.testing.assert_close(loss.slopes(scores.detach(), labels) / pictures, slope)


@pytest.mark.parametrize("name", LOSSES)
def test_rows_of_probabilities_are_labels_too(name: LossName) -> None:
    scores, labels = scored()
    loss = Loss(name=name)
    torch.testing.assert_close(loss(scores, one_hot(labels, CLASSES).double()), loss(scores, labels))


@pytest.mark.parametrize("name", LOSSES)
def test_chance_is_the_least_loss_of_scores_that_say_nothing(name: LossName) -> None:
    labels = torch.arange(CLASSES)
    score = torch.linspace(0, 1, CLASSES, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.LBFGS([score], max_iter=50, line_search_fn="strong_wolfe")
    loss = Loss(name=name)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(score.expand(CLASSES, -1), labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    assert loss.chance(CLASSES) == pytest.approx(float(closure().detach()), abs=1e-9)


def test_a_share_of_smoothing_outside_its_range_is_refused() -> None:
    with pytest.raises(UsageError, match="0 <= label_smoothing < 1"):
        Loss(label_smoothing=1.0)
