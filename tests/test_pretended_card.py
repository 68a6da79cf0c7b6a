"""The pretended card refuses and counts what a real one would, and lets through what a real one lets through."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretended_card import CARD, CPU, PretendedCard, pretended_card
from unveil.core.least_squares import least_squares


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedCard]:
    with pretended_card(monkeypatch) as card:
        yield card


def pair() -> tuple[Tensor, Tensor]:
    here = torch.tensor([1.0, 2.0, 3.0])
    return here, here.to("cuda:0")


@pytest.mark.usefixtures("card")
def test_tensors_know_where_they_are() -> None:
    here, there = pair()
    assert (here.device, there.device, there.cpu().device) == (CPU, CARD, CPU)
    assert (there[1:] + 1).device == torch.zeros(2, device="cuda").device == torch.zeros_like(there).device == CARD
    assert copy.deepcopy(there).device == nn.Linear(3, 2).to("cuda:0")(there).device == CARD
    assert there.to(here).device == there.double().cpu().to(torch.float32).device == CPU
    assert torch.as_tensor(here, device=CARD).device == there.new_tensor([1.0]).device == CARD


@pytest.mark.usefixtures("card")
def test_slopes_go_back_to_the_device_they_came_from() -> None:
    leaf = torch.ones(3, requires_grad=True)
    (slope,) = torch.autograd.grad((leaf.to(CARD) ** 3).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), leaf)
    assert slope.device == second.device == CPU
    assert second.tolist() == [6.0, 6.0, 6.0]


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.tensor(0.0).add_(there.sum()),
        lambda here, there: here.gather(0, torch.zeros(1, dtype=torch.long, device=CARD)),
        lambda here, there: here[there > 1],
        lambda here, there: F.linear(there[None], here[None]),
        lambda here, there: torch.rand(3, generator=torch.Generator(), device=CARD),
        lambda here, there: torch.rand(3, generator=torch.Generator("cuda")),
        lambda here, there: there.clone().normal_(generator=torch.Generator()),
        lambda here, there: torch.linalg.lstsq(there[:, None], there[:, None]),
    ],
)
@pytest.mark.usefixtures("card")
def test_two_devices_in_one_operation_are_refused(mixed: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match=r"same device|device type for generator|driver gels"):
        mixed(*pair())


@pytest.mark.usefixtures("card")
def test_what_torch_allows_is_allowed() -> None:
    _, there = pair()
    assert (there * torch.tensor(2.0)).tolist() == [2.0, 4.0, 6.0]
    assert there[torch.tensor([2, 0])].device == CARD
    drawn = torch.rand(3, generator=torch.Generator("cuda").manual_seed(0), device=CARD)
    assert torch.equal(drawn.cpu(), torch.rand(3, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_what_makes_the_processor_wait_is_counted(card: PretendedCard) -> None:
    _, there = pair()
    assert not card.waits
    _ = (
        float(there.sum()),
        bool(there.any()),
        there[there > 1],
        there.cpu(),
        there.tolist(),
        torch.inverse(there.diag()),
    )
    assert {name for name, _ in card.waits} == {
        "aten::_local_scalar_dense",
        "aten::index",
        "copy to the processor",
        "tolist",
        "aten::_linalg_check_errors",
    }
    assert card.waits["aten::_local_scalar_dense", "outside"] == 2


def test_float64_is_noted(card: PretendedCard) -> None:
    here, there = pair()
    _ = here.double()
    assert not card.doubles
    _ = there.double()[1:]
    assert card.doubles == {"outside": 3}


@pytest.mark.parametrize("driver", ["gelsy", "gelsd"])
def test_least_squares_of_any_rank_on_a_card(card: PretendedCard, driver: str) -> None:
    matrix = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]], dtype=torch.double).to(CARD)
    right = torch.tensor([[2.0], [4.0], [5.0]], dtype=torch.double).to(CARD)
    found = least_squares(matrix, right, driver=driver)  # of least norm: (1, 1), as the pseudo-inverse gives
    assert found.device == CARD
    assert torch.allclose(found.cpu(), torch.ones(2, 1, dtype=torch.double))
