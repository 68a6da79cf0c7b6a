"""Low rank: what is sent, what it costs behind and before other stages, and what it tells."""

from __future__ import annotations

import pytest
import torch

from fakes import small_update
from seeds import seeded
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.powersgd import PowerSGD

SIZES = {"features.0.weight": (4, 27), "hidden.weight": (32, 256), "head.weight": (10, 32)}
VECTORS = 4 + 32 + 10
NUMBERS = 2 * sum(rows + columns for rows, columns in SIZES.values()) + VECTORS


def sent(spec: str, update: Update) -> Update:
    return parse(spec)(update, generator=seeded(0))


def test_the_factors_are_what_is_on_the_wire() -> None:
    update = small_update()
    assert sent("powersgd:rank=2", update).wire_bits == 32 * NUMBERS
    assert sent("powersgd:rank=2+fp16", update).wire_bits == 16 * NUMBERS
    norms = 2 * len(SIZES) + 3  # one for each factor and each vector
    assert sent("powersgd:rank=2+qsgd:levels=16", update).wire_bits == 5 * NUMBERS + 32 * norms


@pytest.mark.parametrize("behind", ["fp16", "qsgd:levels=16", "uniform:bits=8", "topk:density=0.1", "sign:scale=true"])
def test_a_stage_behind_sends_less_than_either_alone(behind: str) -> None:
    update = small_update()
    both = sent(f"powersgd:rank=2+{behind}", update).wire_bits
    assert both < sent("powersgd:rank=2", update).wire_bits
    assert both < sent(behind, update).wire_bits


def test_a_matrix_of_the_rank_arrives_whole_and_any_other_as_its_projection() -> None:
    low = torch.randn(40, 2, generator=seeded(0)) @ torch.randn(2, 30, generator=seeded(1))
    torch.testing.assert_close(sent("powersgd:rank=2", Update({"a": low})).tensors["a"], low, rtol=1e-4, atol=1e-5)
    full = torch.randn(40, 30, generator=seeded(2))
    got = sent("powersgd:rank=3", Update({"a": full})).tensors["a"]
    assert int(torch.linalg.matrix_rank(got, rtol=1e-5)) == 3
    left = torch.linalg.svd(got)[0][:, :3]
    torch.testing.assert_close(got, left @ left.T @ full, rtol=1e-4, atol=1e-5)  # the best within its own columns


def test_vectors_and_matrices_that_factors_would_not_shorten_are_sent_as_they_are() -> None:
    update = Update({"v": torch.rand(9, generator=seeded(0)), "m": torch.rand((4, 4), generator=seeded(1))})
    received = sent("powersgd:rank=2", update)
    assert all(torch.equal(received.tensors[name], t) for name, t in update.tensors.items())
    assert received.wire_bits == 32 * (9 + 16)


def test_kernels_are_matrices_of_out_times_rest() -> None:
    kernel = torch.randn((8, 3, 3, 3), generator=seeded(0))
    as_kernel = sent("powersgd:rank=1", Update({"a": kernel})).tensors["a"]
    as_matrix = sent("powersgd:rank=1", Update({"a": kernel.reshape(8, 27)})).tensors["a"]
    assert torch.equal(as_kernel.reshape(8, 27), as_matrix)


def test_what_the_factors_do_not_tell_costs_a_candidate_nothing_and_what_they_tell_does() -> None:
    matrix = torch.randn((20, 12), generator=seeded(0))
    stage = PowerSGD(rank=2)
    misfit = stage.misfit(stage(Update({"a": matrix}), generator=seeded(0)))
    left = stage.encode(Update({"a": matrix})).tensors["a.left"]
    start = stage._start(matrix).float()
    other = torch.randn((20, 12), generator=seeded(1))
    hidden = other - left @ (left.T @ other)
    hidden = hidden - hidden @ torch.linalg.pinv(start.T) @ start.T
    assert float(misfit({"a": matrix + hidden})) == pytest.approx(0, abs=1e-9)
    assert float(misfit({"a": matrix + other})) > 0.1


def test_another_seed_is_another_projection() -> None:
    update = small_update()
    one, other = (sent(f"powersgd:rank=2,seed={seed}", update).tensors["hidden.weight"] for seed in (0, 1))
    assert not torch.allclose(one, other)


def test_stages_in_a_pipeline_of_a_pipeline_work_on_the_factors_too() -> None:
    update = small_update()
    nested = type(parse("fp16+fp16"))((parse("clip:norm=1+powersgd:rank=2"), parse("qsgd:levels=16")))  # type: ignore[call-arg]
    assert nested(update, generator=seeded(0)).wire_bits == sent("powersgd:rank=2+qsgd:levels=16", update).wire_bits
