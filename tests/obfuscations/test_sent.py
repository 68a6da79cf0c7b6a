"""What was sent: stages behind a sparsifier work on it, the wire bills it, and the attacker judges by it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakes import Threshold, small_update
from generated import tried
from instances import first_of_each, spec_kind
from seeds import seeded
from unveil.core.update import Coding, Payload, Update
from unveil.obfuscations import parse
from unveil.obfuscations.pipeline import Pipeline
from unveil.obfuscations.qsgd import QSGD

SPARSIFIERS = ["topk:density=0.1", "topk:density=0.1,scope=update", "randomk:density=0.3"]
BEHIND = [
    "qsgd:levels=16,norm=max",
    "qsgd:levels=4,bucket=7",
    "qsgd:levels=4,bucket=50,scope=update",
    "uniform:bits=4",
    "uniform:bits=4,range=minmax",
    "uniform:bits=4,range=minmax,scope=update",
    "sign:scale=true",
    "ternary",
    "bf16",
    "gaussian:relative=1",
    "laplace:sigma=0.01",
    "gaussian:snr_db=20",
    "clip:norm=0.01",
    "dpsgd:clip=0.01,noise=0.1",
    "topk:density=0.2",
    "randomk:density=0.5,unbiased=true",
]


@pytest.mark.slow
@pytest.mark.parametrize("first", SPARSIFIERS)
@pytest.mark.parametrize("second", BEHIND)
def test_a_stage_behind_a_sparsifier_does_what_it_does_to_the_values_sent_alone(first: str, second: str) -> None:
    sparse = parse(first)(small_update(), generator=seeded(1))
    masks = sparse.masks()
    packed = Update({name: t[masks[name]] for name, t in sparse.tensors.items()})
    alone = parse(second)(packed, generator=seeded(2))
    both = parse(second)(sparse, generator=seeded(2))
    for name, mask in masks.items():
        assert torch.equal(both.tensors[name][mask], alone.tensors[name])
        assert not both.tensors[name][~mask].any()
        now = both.masks()[name]
        assert not (now & ~mask).any()
        assert second.startswith(("topk", "randomk")) or torch.equal(now, mask)


@pytest.mark.slow
@pytest.mark.parametrize("second", BEHIND)
def test_a_stage_behind_a_users_own_sparsifier_sees_what_is_not_zero(second: str) -> None:
    update = small_update()
    own = Pipeline((Threshold(least=0.01), parse(second)))
    received = own(update, generator=seeded(0))
    masks = {name: t.abs() >= 0.01 for name, t in update.tensors.items()}
    packed = Update({name: t[masks[name]] for name, t in update.tensors.items()})
    alone = parse(second)(packed, generator=seeded(0))
    for name, mask in masks.items():
        assert torch.equal(received.tensors[name][mask], alone.tensors[name])
        assert not received.tensors[name][~mask].any()
    truth = float(own.misfit(received)(update.tensors))
    assert truth < float(own.misfit(received)({name: -t for name, t in update.tensors.items()}))


def test_a_value_sent_that_a_quantiser_made_zero_was_sent_nevertheless() -> None:
    """It is an observation of a small entry, and not one of an entry below the threshold of top-k."""
    x = torch.tensor([8.0, 1.0, 0.9, 0.1, 0.1, 0.1])
    obfuscation = parse("topk:density=0.5+qsgd:levels=2,norm=max")
    received = next(
        r for r in (obfuscation(Update({"a": x}), generator=seeded(s)) for s in range(50)) if r.tensors["a"][1] == 0
    )
    assert received.masks()["a"].tolist() == [True] * 3 + [False] * 3
    misfit = obfuscation.misfit(received)
    impossible = x.clone()
    impossible[1] = 20.0
    assert float(misfit({"a": impossible})) > float(misfit({"a": x})) + 1
    hidden = x.clone()
    hidden[4] = 20.0  # top-k would have sent it
    assert float(misfit({"a": hidden})) > float(misfit({"a": x})) + 0.1


def counted(spec: str, sizes: list[int]) -> float:
    """Bits on the wire, counted from the SPEC for tensors without zeros: positions, values, side information."""
    sent, bits, beside, sparse = list(sizes), 32.0, 0, False
    for stage in spec.split("+"):
        name, _, rest = stage.partition(":")
        settings = dict(pair.split("=") for pair in rest.split(",") if pair)
        groups = sum(math.ceil(n / int(settings.get("bucket", n))) for n in sent)
        if name in ("topk", "randomk"):
            tenths = round(float(settings["density"]) * 10)
            sent, sparse = [-(-n * tenths // 10) for n in sent], True
        elif name == "qsgd":
            bits, beside = 1 + math.ceil(math.log2(int(settings["levels"]))), 32 * groups
        elif name == "uniform":
            bits, beside = int(settings["bits"]), 32 * groups * (2 if "range" in settings else 1)
        elif name == "sign":
            bits, beside = 1, 32 * groups * ("scale" in settings)
        elif name == "ternary":
            bits, beside = math.log2(3), 32 * groups
        elif name in ("fp16", "bf16"):
            bits = min(bits, 16)  # of a value that has fewer bits, the receiver can work it out
        elif name in ("gaussian", "laplace", "dpsgd"):
            bits, beside = 32, 0
    total = float(beside)
    for n, k in zip(sizes, sent, strict=True):
        positions = min(k * math.ceil(math.log2(n)), n) if sparse and k < n else 0
        total += min(k * bits + positions, n * max(bits, math.log2(3)))
    return total


@pytest.mark.parametrize(
    "spec",
    first_of_each(
        [
            *(
                "none",
                "clip:norm=1",
                "fp16",
                "qsgd:levels=4,bucket=7",
                "uniform:bits=3,range=minmax",
                "ternary",
                "sign",
            ),
            *(f"{first}+{second}" for first in ("topk:density=0.1", "randomk:density=0.5") for second in BEHIND),
            *(
                "topk:density=1.0",
                "topk:density=0.9",
                "topk:density=0.9+sign",
                "topk:density=0.5+topk:density=0.2+bf16",
            ),
            *("qsgd:levels=16+fp16", "qsgd:levels=16+clip:norm=1", "qsgd:levels=16+gaussian:sigma=1", "sign+bf16"),
            *("uniform:bits=2+qsgd:levels=256", "qsgd:levels=8+topk:density=0.1", "gaussian:sigma=1+uniform:bits=4"),
        ],
        spec_kind,
    ),
)
def test_the_wire_is_an_independent_count_of_payloads(spec: str) -> None:
    if "scope" in spec or spec.endswith("unbiased=true"):
        spec = spec.replace(",scope=update", "").replace(",unbiased=true", "")
    sizes = [1000, 130, 10]
    update = Update({str(n): torch.rand(n, generator=seeded(n)) + 0.5 for n in sizes})
    received = parse(spec)(update, generator=seeded(0))
    assert received.wire_bits == math.ceil(counted(spec, sizes))
    assert received.wire_bits <= update.wire_bits + 32 * 1140  # of all norms together


@pytest.mark.slow
@tried(60)
@given(st.integers(1, 10), st.integers(1, 10), st.integers(2, 15), st.integers(2, 15))
def test_the_wire_grows_with_density_and_bits(one: int, other: int, few: int, many: int) -> None:
    update = Update({"a": torch.rand(300, generator=seeded(0)) + 0.5, "b": torch.rand(7, generator=seeded(1)) + 0.5})

    def size(tenths: int, bits: int) -> int:
        return parse(f"topk:density={tenths / 10}+uniform:bits={bits}")(update, generator=seeded(0)).wire_bits

    assert size(min(one, other), min(few, many)) <= size(max(one, other), max(few, many))


def test_an_update_worked_out_from_other_arrays_is_billed_as_those() -> None:
    left, right = torch.randn(64, 2, generator=seeded(0)), torch.randn(32, 2, generator=seeded(1))
    update = Update({"a": left @ right.T}, encoded=Update({"a.left": left, "a.right": right}))
    assert update.wire_bits == 32 * 2 * (64 + 32)
    assert [(p.name, p.values, p.bits_per_value) for p in update.payload] == [("a.left", 128, 32), ("a.right", 64, 32)]
    # Noise on the product follows from no factors; what is rounded to more bits than they need does.
    assert parse("gaussian:sigma=1")(update, generator=seeded(0)).wire_bits == 32 * 64 * 32
    assert parse("uniform:bits=8")(update, generator=seeded(0)).wire_bits == 32 * 192


def test_the_payload_of_a_sparse_quantised_array_by_hand() -> None:
    update = Update({"a": torch.rand(1000, generator=seeded(0)) + 0.5, "b": torch.ones(3)}, Coding())
    received = parse("topk:density=0.01+uniform:bits=8")(update, generator=seeded(0))
    assert received.payload == (
        Payload(name="a", entries=1000, values=10, bits_per_value=8, index_bits=10 * 10),
        Payload(name="b", entries=3, values=1, bits_per_value=8, index_bits=2),
    )
    assert received.wire_bits == 10 * (8 + 10) + (8 + 2) + 2 * 32


@pytest.mark.slow
@tried(60)
@given(
    levels=st.sampled_from([2, 4, 16, 256]),
    bucket=st.none() | st.integers(1, 64),
    size=st.integers(1, 300),
    number=st.integers(0, 1000),
)
def test_the_step_of_l2_norms_is_told_from_the_values_alone(
    levels: int, bucket: int | None, size: int, number: int
) -> None:
    """Where the values are from another system, without norms: they are all multiples of the step.

    A few values may have a larger divisor; there the norm of what was received decides, which rounding has changed.
    """
    stage = QSGD(levels=levels, bucket=bucket)
    x = torch.randn(size, generator=seeded(number))
    y = stage(Update({"a": x}), generator=seeded(number + 1)).tensors["a"]
    steps = stage._steps(Update({"a": y}))["a"].expand(size)
    for first in range(0, size, bucket or size):
        part = slice(first, first + (bucket or size))
        n, step = len(x[part]), float(x[part].norm()) / (levels - 1)
        if bool(y[part].any()):
            off = 1e-4 if n >= 16 else 4 * math.sqrt(n) / (levels - 1)
            assert float(steps[part][0]) == pytest.approx(step, rel=off)
        else:
            assert not steps[part].any()


def test_the_step_that_travels_is_used_where_it_cannot_be_told() -> None:
    """Random-k may drop the largest value, and with it what the levels are parts of."""
    x = torch.cat([torch.tensor([10.0]), torch.rand(999, generator=seeded(0))])
    obfuscation = parse("qsgd:levels=101,norm=max+randomk:density=0.5")
    received = next(
        r for r in (obfuscation(Update({"a": x}), generator=seeded(s)) for s in range(20)) if not r.masks()["a"][0]
    )
    misfit = obfuscation.misfit(received)
    wrong = x + 0.15 * (received.tensors["a"] - x).sign()
    assert float(misfit({"a": wrong})) > 2 * float(misfit({"a": x}))


@pytest.mark.slow
def test_two_equal_stages_are_two_stages() -> None:
    update = small_update()
    for spec in ("topk:density=0.5", "gaussian:sigma=0.01", "qsgd:levels=8,norm=max", "clip:norm=0.1", "sign"):
        obfuscation = parse(f"{spec}+{spec}")
        received = obfuscation(update, generator=seeded(0))
        truth = float(obfuscation.misfit(received)(update.tensors))
        assert truth < float(obfuscation.misfit(received)({name: -t for name, t in update.tensors.items()}))
    twice = parse("topk:density=0.5+topk:density=0.5")(Update({"a": torch.rand(100)}), generator=seeded(0))
    assert twice.count_sent("a") == 25


@pytest.mark.parametrize(("kind", "bits"), [(torch.float64, 64), (torch.float16, 16), (torch.bfloat16, 16)], ids=str)
def test_values_are_sent_in_the_type_that_they_have(kind: torch.dtype, bits: int) -> None:
    update = Update({"a": torch.rand(100, generator=seeded(0)).to(kind), "b": torch.ones(3)})
    assert update.wire_bits == 100 * bits + 96
    assert parse("none")(update, generator=seeded(0)).wire_bits == 100 * bits + 96
    assert parse("gaussian:relative=1")(update, generator=seeded(0)).wire_bits == 100 * bits + 96
    assert parse("fp16")(update, generator=seeded(0)).wire_bits == 16 * 103
    positions = 7 * 11 + 2  # a bitmap is larger than an index each
    assert parse("topk:density=0.11")(update, generator=seeded(0)).wire_bits == 11 * bits + 32 + positions
