"""Components that other people's packages bring: how strings find them, and what is said where they do not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unveil import attacks, enhancers, obfuscations
from unveil.cli import listing
from unveil.clients import training
from unveil.core.errors import UsageError
from unveil.core.third_parties import installed

PACKAGES = Path(__file__).resolve().parents[1] / "third_party"
PARSERS: dict[str, Callable[[str], Any]] = {
    "obfuscation": obfuscations.parse,
    "attack": attacks.parse,
    "enhancer": enhancers.parse,
    "training": training.parse,
}


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGES))


@pytest.mark.parametrize(
    ("kind", "spec", "printed"),
    [
        ("obfuscation", "lowbits.components:Halving:times=3", "halving:times=3"),
        ("obfuscation", "halving:times=3", "halving:times=3"),
        ("obfuscation", "lowbits.components:Nameless", "lowbits.components:Nameless"),
        ("obfuscation", "lowbits.components:Nameless:times=2", "lowbits.components:Nameless:times=2"),
        ("obfuscation", "topk:density=0.1+halving:times=2", "topk:density=0.1+halving:times=2"),
        (
            "obfuscation",
            "lowbits.components:Nameless:times=2+topk:density=1e-05",
            "lowbits.components:Nameless:times=2+topk:density=1e-05",
        ),
        ("attack", "lowbits.components:Template:grey=0.5", "template:grey=0.5"),
        ("attack", "template", "template"),
        ("enhancer", "lowbits.components:Lighter:by=0.2", "lighter:by=0.2"),
        ("enhancer", "lighter", "lighter"),
        ("training", "lowbits.components:Double", "double"),
    ],
)
def test_a_component_is_found_and_prints_the_spec_that_builds_it(kind: str, spec: str, printed: str) -> None:
    built = PARSERS[kind](spec)
    assert str(built) == printed
    assert PARSERS[kind](printed) == built


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("obfuscation", "nowhere.at.all:Thing", r"importing 'nowhere.at.all' raised ModuleNotFoundError.*; run from"),
        ("obfuscation", "lowbits.components:Halvin", r"has no class 'Halvin'; did you mean 'Halving'\?"),
        ("obfuscation", "lowbits.broken:Thing", r"importing 'lowbits.broken' raised RuntimeError: no licence"),
        ("obfuscation", "lowbits.components:Template", r"is not an obfuscation: it has no `family`; add it"),
        ("obfuscation", "lowbits.components:Impostor", r"its `name` is 'topk', which does not lead to it"),
        ("obfuscation", "lowbits.components:plain", r"is no dataclass"),
        ("obfuscation", "lowbits.components:Halving:time=3", r"has no setting 'time'; did you mean 'times'\?"),
        ("obfuscation", "halving:times=-1", r"obfuscation 'halving' raised ValueError: times below zero"),
        ("obfuscation", "halvin", r"unknown obfuscation 'halvin'; did you mean 'halving'\?"),
        ("obfuscation", "os:path", r"'os' is Python's own"),
        ("obfuscation", "lowbits/components.py:Halving", r"is a file, not a module; write lowbits.components:Halving"),
        ("attack", "lowbits.components:Halving", r"is not an attack: its call takes other arguments; write it as in"),
        ("enhancer", "lowbits.components:Halving", r"is not an enhancer: it has no `is_faithful`"),
        ("training", "lowbits.components:Halving", r"is not a training: it has no `mode`"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(kind: str, spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        PARSERS[kind](spec)
    assert "\n" not in str(refusal.value)


def package(folder: Path, name: str, entry: str) -> str:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[unveil.obfuscations]\n{entry}\n")
    return str(folder)


def test_a_name_of_unveils_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package(tmp_path, "rival", "topk = lowbits.components:Halving"))
    with pytest.raises(UsageError, match="the package 'rival' calls its obfuscation 'topk', which unveil has one of"):
        obfuscations.parse("halving")
    assert type(obfuscations.parse("topk:density=0.1")) is obfuscations.TopK  # names of unveil's own ask nobody


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package(tmp_path, "rival", "halving = rival:Other"))
    with pytest.raises(UsageError, match="both have the obfuscation 'halving'"):
        obfuscations.parse("halving")


def test_asking_what_is_installed_imports_nothing() -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "lowbits"]:
        del sys.modules[module]
    assert set(installed("obfuscation", obfuscations.CATALOGUE)) == {"halving"}
    assert "lowbits" not in sys.modules


def test_the_list_shows_what_is_installed() -> None:
    shown = {(entry.kind, entry.name): entry for entry in listing.entries()}
    assert shown["obfuscations", "halving"].settings == {"times": "1"}
    assert shown["attacks", "template"].summary == "The same grey picture for every image, whatever was received."
    assert {kind for kind, name in shown if name in ("lighter", "double", "worst", "plain")} == {
        *("enhancers", "trainings", "metrics", "models"),
    }
