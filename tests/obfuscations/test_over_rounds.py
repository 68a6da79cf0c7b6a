"""Several rounds of one obfuscation: what is sent, what is kept, and what a receiver makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seeds import seeded
from unveil.core.protocols import HasEntryModels, MayRescale
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.over_rounds import over_rounds, sent_before

SENT = torch.tensor([[4.0, 3.0, 2.0, 1.0]])


def received(spec: str, *, feedback: bool, count: int = 3, tensor: Tensor = SENT) -> Update:
    return over_rounds(parse(spec), count, feedback=feedback)(Update({"w": tensor}), generator=seeded(0))


def test_error_feedback_sends_later_what_was_withheld() -> None:
    # 4 3 2 1 | kept 0 3 2 1 and new 4 3 2 1: 4 6 4 2 | kept 4 0 4 2 and new: 8 3 6 3
    found = received("topk:density=0.25", feedback=True)
    assert [one.tensors["w"].tolist() for one in found.rounds] == [[[4, 0, 0, 0]], [[0, 6, 0, 0]], [[8, 0, 0, 0]]]
    assert found.tensors["w"].tolist() == [[4, 2, 0, 0]]
    assert found.sent("w").tolist() == [[True, True, False, False]]  # type: ignore[union-attr]
    assert [before["w"].tolist() for before in sent_before(found)] == [[[0, 0, 0, 0]], [[4, 0, 0, 0]], [[4, 6, 0, 0]]]
    alone = received("topk:density=0.25", feedback=False)
    assert [one.tensors["w"].tolist() for one in alone.rounds] == [[[4, 0, 0, 0]]] * 3


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("spec", ["none", "topk:density=0.25", "sign:scale=true", "qsgd:levels=16,norm=max"])
def test_bits_are_those_of_all_rounds(spec: str, feedback: bool) -> None:
    once = parse(spec)(Update({"w": SENT}), generator=seeded(0)).wire_bits
    found = received(spec, feedback=feedback)
    assert found.wire_bits == pytest.approx(3 * once, rel=0.2)  # positions of other entries, zeros of other values
    assert found.in_full.wire_bits == 3 * 4 * 32


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("spec", ["none", "topk:density=0.1", "sign:scale=true", "topk:density=0.2+fp16"])
def test_the_truth_explains_all_rounds_best(spec: str, feedback: bool) -> None:
    truth = torch.randn((8, 16), generator=seeded(1))
    found = received(spec, feedback=feedback, tensor=truth)
    misfit = over_rounds(parse(spec), 3, feedback=feedback).misfit(found)
    at_truth = float(misfit({"w": truth}))
    for other in (torch.zeros_like(truth), -truth, truth.flip(0), torch.randn((8, 16), generator=seeded(2))):
        assert at_truth < float(misfit({"w": other}))


def test_entry_models_join_the_rounds() -> None:
    found = received("topk:density=0.25", feedback=True)
    model = over_rounds(parse("topk:density=0.25"), 3, feedback=True).entry_models(found)["w"]  # type: ignore[union-attr]
    target, weight = model(SENT, (slice(None), slice(None)))
    # Round 1 has the first entry itself, round 3 three times it; the others are expected to be small, as they are.
    assert target[0, 0] == pytest.approx(4.0)
    assert weight[0, 0] == pytest.approx((1 + 4 * 0.15 + 9) / 14)
    assert weight[0, 3] == pytest.approx(0.15)
    assert torch.allclose(target[0, 2:], SENT[0, 2:])  # what is expected lies below the thresholds
    once = over_rounds(parse("topk:density=0.25"), 3, feedback=True)
    single = parse("topk:density=0.25")(Update({"w": SENT}), generator=seeded(0))
    assert float(once.misfit(single)({"w": SENT})) == 0.0  # an update without rounds is one of a single round


def test_it_is_what_its_obfuscation_is() -> None:
    topk, sign = (over_rounds(parse(spec), 2, feedback=True) for spec in ("topk:density=0.5", "sign"))
    assert (str(topk), topk.family, isinstance(topk, HasEntryModels)) == ("topk:density=0.5", "sparsify", True)
    assert (sign.family, isinstance(sign, HasEntryModels)) == ("quantise", False)
    assert isinstance(sign, MayRescale)
    assert sign.scale_unknown
    assert not topk.scale_unknown
