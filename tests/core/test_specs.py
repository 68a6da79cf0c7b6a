"""SPECs of every kind, made up and mangled: a component that prints itself, or one sentence, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generated import tried
from unveil import enhancers, obfuscations
from unveil.attacks import presets
from unveil.attacks.separation.with_restorer import RestoredFeatureInversion
from unveil.audits.threat_model import ThreatModel
from unveil.clients import training
from unveil.core.errors import UsageError

CATALOGUES: list[Mapping[str, type]] = [obfuscations.CATALOGUE, training.CATALOGUE, presets.CATALOGUE]
PARSERS: dict[str, Callable[[str], Any]] = {
    "obfuscation": obfuscations.parse,
    "training": training.parse,
    "attack": presets.parse,
    "threat_model": ThreatModel.parse,
    "enhancer": enhancers.parse,
}
WORKING = (
    "none",
    "qsgd:levels=16,norm=max",
    "topk:density=0.05+qsgd:levels=16,norm=max",
    "gaussian:relative=2.5",
    "laplace:snr_db=-3.5",
    "dpsgd:clip=1,noise=0.1",
    "fedavg:epochs=2,batch_size=8,lr=0.01,momentum=0.9,shuffle=0",
    "fedsgd:clip=1,noise=0.5",
    "rog:objective=misfit,factor=4",
    "unveil:steps=100,starts=2",
    "obfuscation+labels unknown",
    "faithfull",
)
NUMBERS = (
    *("nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "1e-320", "1e308", "-1", "-0.0", "0", "0.5", "1e12", "1e-12"),
    *("9" * 400, "9" * 5000, "1" + "0" * 30, "2147483648", "9223372036854775808", "-9223372036854775809", "16777217"),
    *("1_000", "0x10", "²", "٣", "１６", "½", " 4 ", "4\n", "\x00", "[4]", "{}", "'4'", "4;5", "4=5", "5.", ".5", "e5"),
)
WORDS = ("true", "yes", "none", "None", "null", "", "max", "l2", "update", "tensor", "train", "symmetric", "\ud800")

classes = {name: cls for catalogue in CATALOGUES for name, cls in catalogue.items()}
names = st.sampled_from([*classes, "", "QSGD", " qsgd", "/", "."])
fields = sorted({field.name for cls in classes.values() for field in dataclasses.fields(cls)})
keys = st.sampled_from([*fields, "", "name", "family", "__class__", "levels "])
values = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.floats().map(repr), st.integers().map(str), st.text(max_size=4)
)
pairs = st.tuples(keys, st.sampled_from(["=", "=", "=", " = ", "", ":"]), values).map("".join)
stages = st.tuples(names, st.sampled_from([":", ":", ":", "", "::"]), st.lists(pairs, max_size=3).map(",".join)).map(
    "".join
)
made_up = st.lists(stages, min_size=1, max_size=3).map("+".join)


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """A SPEC that works, with a few letters cut, doubled or put in."""
    text = draw(st.sampled_from(WORKING))
    for _ in range(draw(st.integers(1, 3))):
        first, last = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        middle = draw(st.sampled_from(["", text[first:last] * 2, *NUMBERS]) | st.text(max_size=2))
        text = text[:first] + middle + text[last:]
    return text


@pytest.mark.slow
@tried(120)
@given(st.one_of(made_up, mangled()))
def test_any_text_is_a_component_or_one_sentence(text: str) -> None:
    for kind, parse in PARSERS.items():
        if kind == "enhancer" and text in enhancers.CATALOGUE:
            continue  # reads a file of weights
        try:
            found = parse(text)
        except UsageError as reason:
            sentence = str(reason)
        else:
            assert kind == "enhancer" or parse(str(found)) == found
            continue
        assert 0 < len(sentence) < 2 * len(text) + 600


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("qsgd:levels={}", "levels"),
        ("ternary:clip={}", "clip"),
        ("topk:density={}", "density"),
        ("randomk:density={}", "density"),
        ("gaussian:sigma={}", "sigma"),
        ("laplace:relative={}", "relative"),
        ("clip:norm={}", "norm"),
        ("dpsgd:clip={},noise=1", "clip"),
        ("dpsgd:clip=1,noise={}", "noise"),
        ("fedavg:steps=2,lr={}", "lr"),
        ("fedavg:steps=2,lr=1,weight_decay={}", "weight_decay"),
        ("fedsgd:clip={}", "clip"),
        ("fedsgd:clip=1,noise={}", "noise"),
        ("rog:factor={}", "factor"),
        ("rog:final_lr={}", "final_lr"),
        ("inverting_gradients:tv={}", "tv"),
        ("dlg:lr={}", "lr"),
        ("unveil:smoothness={}", "smoothness"),
        ("unveil+:trust={}", "trust"),
    ],
)
@tried(20)
@given(value=st.floats())
def test_a_number_is_kept_to_the_last_digit_or_refused(spec: str, field: str, value: float) -> None:
    """Whatever is accepted is finite, and prints itself so that it comes back."""
    parse = next(p for p, c in zip(PARSERS.values(), CATALOGUES, strict=False) if spec.partition(":")[0] in c)
    try:
        found = parse(spec.format(value))
    except UsageError:
        return
    assert getattr(found, field) == value
    assert value == 0 or 1e-30 <= abs(value) <= 1e30
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    "spec",
    [
        *("qsgd:levels={}", "qsgd:levels=4,bucket={}", "uniform:bits={}", "fedavg:steps={},lr=1"),
        *("fedavg:epochs={},lr=1", "fedavg:steps=2,lr=1,batch_size={}", "fedavg:steps=2,lr=1,shuffle={}"),
        *("unveil:steps={}", "unveil:starts={}", "unveil+:steps={}", "rog:steps={}", "inverting_gradients:steps={}"),
        *("dlg:steps={}", "idlg:steps={}"),
    ],
)
@pytest.mark.parametrize("digits", [19, 31, 400, 5000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_counts_that_no_computer_reaches_are_refused(spec: str, digits: int, sign: str) -> None:
    parse = next(p for p, c in zip(PARSERS.values(), CATALOGUES, strict=False) if spec.partition(":")[0] in c)
    with pytest.raises(UsageError) as refusal:
        parse(spec.format(sign + "9" * digits))
    assert "\n" not in str(refusal.value)


def test_what_is_set_in_python_only_is_printed_and_refused_in_a_spec() -> None:
    assert str(RestoredFeatureInversion(steps=7)) == "unveil+:steps=7"
    with pytest.raises(UsageError, match="has no setting 'prior'"):
        presets.parse("unveil+:prior=faithful")
    with pytest.raises(UsageError):
        presets.parse("unveil+:steps=7@prior=faithful")
