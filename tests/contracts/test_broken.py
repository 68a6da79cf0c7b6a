"""The laws can be broken, and a package of somebody else's that keeps them passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unveil import obfuscations, testing
from unveil.clients.training import FedSGD
from unveil.core.metric import Metric
from unveil.core.registry import spec_of
from unveil.metrics import PSNR


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "third_party"))


def test_components_of_another_package_keep_the_laws() -> None:
    from lowbits import components

    testing.check_obfuscation(components.Halving(times=2))
    testing.check_obfuscation(components.Nameless())
    testing.check_attack(components.Template())
    testing.check_enhancer(components.Lighter())
    testing.check_metric(components.WORST)
    testing.check_training(components.Double())


@dataclass(frozen=True, kw_only=True)
class Changed:
    """An obfuscation with one of its parts replaced."""

    what: str = ""
    family = "none"

    def __call__(self, update, *, generator):
        tensors = dict(update.tensors)
        first = next(iter(tensors))
        if self.what == "input":
            tensors[first].mul_(0.5)
        elif self.what == "type":
            tensors[first] = tensors[first].double()
        elif self.what == "global":
            torch.rand(1)
        elif self.what == "names":
            tensors.pop(first)
        return replace(update, tensors=tensors)

    def misfit(self, received, *, sent_only=False):
        misfit = obfuscations.parse("none").misfit(received)
        return (lambda candidate: -misfit(candidate)) if self.what == "misfit" else misfit

    __str__ = spec_of


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("input", "changed its input; return new tensors"),
        ("type", r"makes '0.weight' torch.float64 of torch.float32; convert it back"),
        ("global", "drew from torch's global generator"),
        ("names", "does not keep the tensors' names"),
        ("misfit", "its misfit of zeros is lower by"),
    ],
)
def test_each_broken_law_of_obfuscations_is_told(what: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing.obfuscations, "require_round_trip", lambda *_: None)  # no module of ours has this class
    with pytest.raises(AssertionError, match=message):
        testing.check_obfuscation(Changed(what=what))


@dataclass(frozen=True, kw_only=True)
class Mute:
    """An obfuscation that prints itself as Python does."""

    family = "none"
    __call__ = Changed.__call__
    misfit = Changed.misfit
    what: str = ""


@pytest.mark.parametrize(
    ("check", "component", "message"),
    [
        (testing.check_obfuscation, Mute(), r"str\(\) gives no SPEC that builds it"),
        (testing.check_attack, obfuscations.parse("none"), "is not an attack: its call takes other arguments"),
        (testing.check_training, obfuscations.parse("none"), "is not a training: it has no `mode`"),
        (testing.check_enhancer, FedSGD(), "is not an enhancer: it has no `is_faithful`"),
        (testing.check_metric, replace(PSNR, leak="low"), "and low means leakage; turn `leak`"),
        (
            testing.check_metric,
            Metric(name="pooled", leak="low", score=lambda a, b: (a - b).square().mean().expand(len(a))),
            "depends on the others of its batch",
        ),
    ],
)
def test_each_kind_has_laws_that_can_fail(check: Callable[[Any], None], component: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(component)
