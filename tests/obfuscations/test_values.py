"""What obfuscations do to numbers: errors of at most a step, unbiased means; every type, size and scale of tensor."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from generated import tried
from instances import PLAIN
from seeds import seeded
from unveil.core.binding import for_receiver
from unveil.core.errors import UnattackableError
from unveil.core.protocols import Obfuscation
from unveil.core.update import CHECKED, Update
from unveil.obfuscations import parse
from unveil.obfuscations.draws import laplace_like
from unveil.obfuscations.numerics import share_of

SPECS = [
    *PLAIN,
    "qsgd:levels=4",
    "qsgd:levels=64,bucket=4",
    "qsgd:levels=4,bucket=3,scope=update",
    "uniform:bits=3,range=minmax,scope=update",
    "topk:density=0.3,scope=update+qsgd:levels=4,bucket=2",
    "randomk:density=0.5+ternary",
    "topk:density=0.5+laplace:relative=1",
    "uniform:bits=4+gaussian:relative=1",
    "qsgd:levels=8+clip:norm=1",
]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

entries = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40)
scales = st.sampled_from([1.0, 1e20, 1e-23])


def send(obfuscation: Obfuscation, tensors: dict[str, Tensor], seed: int = 0) -> Update:
    update = Update(tensors)
    return for_receiver(obfuscation, update)(update, generator=seeded(seed))


def groups(size: int, bucket: int | None) -> list[slice]:
    return [slice(k, k + (bucket or size)) for k in range(0, size, bucket or size)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qsgd", "qsgd_max", "uniform", "minmax"])
@tried(40)
@given(values=entries, scale=scales, bucket=st.none() | st.integers(1, 12), fine=st.integers(2, 9))
def test_a_quantiser_is_off_by_a_step_of_its_own_group_at_most(
    kind: str, values: list[float], scale: float, bucket: int | None, fine: int
) -> None:
    """Half a step where it rounds to the nearest level, a whole one where it rounds at random; short buckets too."""
    x = torch.tensor(values, dtype=torch.float32) * scale
    if kind.startswith("qsgd"):
        norm = "max" if kind == "qsgd_max" else "l2"
        spec = f"qsgd:levels={2**fine},norm={norm}" + (f",bucket={bucket}" if bucket else "")
    else:
        bucket, spec = None, f"uniform:bits={fine}" + (",range=minmax" if kind == "minmax" else "")
    y = send(parse(spec), {"a": x}).tensors["a"]
    for part in groups(len(x), bucket):
        exact, got = x[part].double(), y[part].double()
        step = {
            "qsgd": float(exact.norm()) / (2**fine - 1),
            "qsgd_max": float(exact.abs().max()) / (2**fine - 1),
            "uniform": float(exact.abs().max()) / (2 ** (fine - 1) - 1) / 2,
            "minmax": float(exact.max() - exact.min()) / (2**fine - 1) / 2,
        }[kind]
        rounding = 1e-5 * float(exact.abs().max()) + 1e-44
        assert float((got - exact).abs().max()) <= step * (1 + 1e-5) + rounding


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "spec",
    [
        "qsgd:levels=4,bucket=21",
        "qsgd:levels=16,norm=max",
        "ternary:clip=none",
        "randomk:density=0.3,unbiased=true",
        "randomk:density=0.5,unbiased=true+qsgd:levels=4,norm=max",
    ],
)
def test_unbiased_channels_are_right_in_the_mean(spec: str, dtype: torch.dtype) -> None:
    """Also in half precision, where a fraction of a step has few bits and a uniform number is often 0 or 1."""
    draws, values = 4000, torch.linspace(-1, 1, 21).to(dtype)
    got = send(parse(spec), {"a": values.repeat(draws)}).tensors["a"].double().reshape(draws, 21)
    held = torch.finfo(dtype).eps / 4 if spec.startswith("randomk") else 0.0  # the gain has no exact product
    error = (got.mean(0) - values.double()).abs() - held * values.double().abs()
    assert float((error / (got.std(0) / draws**0.5).clamp_min(1e-4)).max()) < 4.5


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_noise_has_the_size_it_names_in_every_type(kind: str, dtype: torch.dtype) -> None:
    noise = send(parse(f"{kind}:sigma=1"), {"a": torch.zeros(200_000, dtype=dtype)}).tensors["a"].double()
    assert float(noise.std()) == pytest.approx(1, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    kurtosis = float(noise.pow(4).mean() / noise.square().mean() ** 2)
    assert kurtosis == pytest.approx({"gaussian": 3, "laplace": 6}[kind], rel=0.1)


@pytest.mark.parametrize("end", [0.0, 0.5, 1 - 2**-53])
def test_laplace_noise_is_a_sample_at_the_ends_of_the_uniform_draw(end: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """At an end the inverse distribution is infinite; the number next to it is a draw that may happen."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, end, dtype=torch.float64))
    assert float(laplace_like(torch.zeros(3), seeded(0)).abs().max()) < 53 * math.log(2) / math.sqrt(2) + 0.01


def tensors_of(kind: str, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = seeded(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    tiny, largest = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
    ramp = torch.arange(1, 10, dtype=torch.float64)
    return {
        "zeros": {"a": torch.zeros(9, dtype=dtype)},
        "some empty": {"a": torch.zeros((0, 4), dtype=dtype), "b": normal(3)},
        "all empty": {"a": torch.zeros(0, dtype=dtype)},
        "no tensor": {},
        "one entry": {"a": normal(1)},
        "a number": {"a": torch.tensor(-3.0, dtype=dtype)},
        "transposed": {"a": normal(6, 8).T, "b": normal(2, 3, 4).permute(2, 0, 1)},
        "all equal": {"a": torch.ones((3, 5), dtype=dtype)},
        "large": {"a": (ramp * min(1e20, largest / 20)).to(dtype)},
        "small": {"a": (ramp * max(1e-23, tiny)).to(dtype)},
        "denormal": {"a": (ramp * max(tiny / 16, 1e-300)).to(dtype)},
        "types mixed": {"a": normal(5, 4).half(), "b": normal(6).float(), "c": normal(3, 3).double(), "d": normal(4)},
    }[kind]


KINDS = ["zeros", "some empty", "all empty", "no tensor", "one entry", "a number", "transposed", "all equal"]
KINDS += ["large", "small", "denormal", "types mixed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_tensor_passes_every_channel_and_is_judged_by_a_number(kind: str, dtype: torch.dtype) -> None:
    tensors = tensors_of(kind, dtype)
    half = {name: t * 0.5 for name, t in tensors.items()}
    for obfuscation in map(parse, SPECS):
        received = send(obfuscation, tensors)
        received.check()
        assert received.wire_bits >= 0
        for name, t in tensors.items():
            y = received.tensors[name]
            assert (y.dtype, y.shape) == (t.dtype, t.shape), (obfuscation, name)
        for sent in (received, Update(received.tensors)):  # with and without what travelled beside the values
            assert math.isfinite(float(obfuscation.misfit(sent)(half))), obfuscation


@pytest.mark.parametrize("kind", ["large", "small"])
@pytest.mark.parametrize("spec", ["uniform:bits=4", "topk:density=0.5", "sign:scale=true", "clip:norm=1", "fp16"])
def test_a_channel_means_the_same_at_every_scale(kind: str, spec: str) -> None:
    """What it makes of 1e20 times an update is 1e20 times what it makes of the update, up to rounding."""
    tensors = tensors_of(kind, torch.float32)
    scale = float(tensors["a"][0].double())
    got = send(parse(spec), tensors).tensors["a"].double()
    usual = send(parse(spec), {"a": (tensors["a"].double() / scale).float()}).tensors["a"].double()
    if spec.startswith("clip"):
        assert float(got.norm()) == pytest.approx(min(1, float(tensors["a"].double().norm())), rel=1e-6)
    elif spec == "fp16":
        assert float(got.abs().max()) == (65504 if kind == "large" else 0)
    else:
        torch.testing.assert_close(got / scale, usual, rtol=1e-4, atol=1e-4)


def test_an_infinity_is_found_behind_many_numbers() -> None:
    update = Update({"a": torch.zeros(2, CHECKED)})
    update.check()
    update.tensors["a"][1, -1] = torch.inf
    with pytest.raises(UnattackableError, match="tensor 'a' holds NaN or infinite values"):
        update.check()


def test_nothing_sent_is_zero_and_finite() -> None:
    for tensors in ({}, {"a": torch.zeros(0)}, {"a": torch.zeros(0), "b": torch.zeros(3)}):
        update = Update(tensors)
        update.check()
        assert update.is_zero
        assert update.wire_bits == 32 * sum(t.numel() for t in tensors.values())
    assert not Update({"a": torch.zeros(0), "b": torch.ones(1)}).is_zero


@tried(100)
@given(percent=st.integers(1, 100), size=st.integers(1, 2000))
def test_a_share_is_that_of_the_decimal_number(percent: int, size: int) -> None:
    """0.07 of 100 entries are 7: the float next to 0.07 is a little more, and so is its product."""
    assert share_of(float(f"0.{percent:02d}") if percent < 100 else 1.0, size) == -(-percent * size // 100)


@pytest.mark.parametrize("kind", ["topk", "randomk"])
def test_a_decimal_share_of_ties_is_sent_exactly_and_the_same_each_time(kind: str) -> None:
    tensors = {"a": torch.ones(100), "b": torch.zeros(100)}
    for density in ("0.07", "0.14", "0.28", "0.29", "0.57", "0.58", "1"):
        obfuscation = parse(f"{kind}:density={density}")
        first, second = send(obfuscation, tensors), send(obfuscation, tensors)
        for name in tensors:
            assert first.count_sent(name) == round(100 * float(density))
            assert torch.equal(first.masks()[name], second.masks()[name])


def test_sixteen_bits_hold_the_largest_value_of_the_other_sixteen() -> None:
    bf16 = torch.tensor([torch.finfo(torch.bfloat16).max, 65504.0, 1e-40]).bfloat16()
    fp16 = torch.tensor([65504.0, 6e-8, 1.0]).half()
    assert send(parse("fp16"), {"a": bf16}).tensors["a"].tolist() == [65536, 65536, 0]
    assert send(parse("bf16"), {"a": fp16}).tensors["a"].float()[0] == 65504
    assert send(parse("bf16"), {"a": fp16}).tensors["a"].float()[2] == 1
