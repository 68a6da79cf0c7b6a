"""One switch decides in which arithmetic rough steps are taken, and every trial says which it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pretended_card import CARD, NAME, pretended_card
from seeds import seeded, shifted
from unveil import attacks, obfuscations
from unveil.attacks.separation.heads.head import read_head
from unveil.audits.audit import Audit
from unveil.audits.results import append, prepare, read_trials, trial_key
from unveil.audits.trial import arithmetic_of, run_trial
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.arithmetic import (
    VARIABLE,
    Choice,
    arithmetic_on,
    choice,
    chosen_precision,
    has_bfloat16,
    machine,
    rough_steps,
    using,
)
from unveil.core.errors import UsageError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def client() -> Client:
    return make_client(name="client", model="lenet", images="builtin", size=16, batch=2, training=FedSGD())


def test_the_processor_decides_unless_somebody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unveil.core.arithmetic.has_bfloat16", lambda device: True)
    assert arithmetic_on(CPU) == "bfloat16"
    monkeypatch.setenv(VARIABLE, "float32")
    assert arithmetic_on(CPU) == "float32"
    with using("bfloat16"):
        assert arithmetic_on(CPU) == "bfloat16"
        with using(None):
            assert arithmetic_on(CPU) == "float32"
    monkeypatch.setattr("unveil.core.arithmetic.has_bfloat16", lambda device: False)
    monkeypatch.setenv(VARIABLE, "auto")
    assert arithmetic_on(CPU) == "float32"


def test_another_word_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "float23")
    with pytest.raises(UsageError, match=r"UNVEIL_ARITHMETIC: expected auto, .*'float23'; did you mean 'float32'"):
        choice()


def test_only_rough_features_are_rounded_and_only_where_it_was_decided() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10))
    head = read_head(model, (3, 8, 8), training=FedSGD())
    images = torch.rand((2, 3, 8, 8), generator=seeded(0))
    exact = head.features(images)
    with using("float32"):
        assert torch.equal(head.features(images, rough=True), exact)
    with using("bfloat16"):
        rough = head.features(images, rough=True)
        assert torch.equal(head.features(images), exact)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02)  # eight bits of mantissa, a sum of 27 products


@pytest.mark.slow
def test_a_trial_says_what_it_was_computed_in_and_is_another_trial_then(client: Client, tmp_path: Path) -> None:
    trials = {}
    for arithmetic in ("float32", "bfloat16"):
        with using(arithmetic):  # type: ignore[arg-type]
            trials[arithmetic] = run_trial(client, obfuscations.parse("none"), attacks.parse("unveil:steps=2"), seed=0)
        assert trials[arithmetic].settings["arithmetic"] == arithmetic
    assert len({trial_key(trial.settings, trial.seed) for trial in trials.values()}) == 2
    versions = trials["float32"].versions
    assert versions["bfloat16"] == ("yes" if has_bfloat16(CPU) else "no")
    assert versions["processor"] == torch.backends.cpu.get_cpu_capability()
    with using("bfloat16"):  # all of this attack's steps are in float32 in any case
        matched = run_trial(client, obfuscations.parse("none"), attacks.parse("rog:steps=1"), seed=0)
    assert matched.settings["arithmetic"] == "float32"


def test_an_audit_in_another_arithmetic_does_not_share_the_folder(client: Client, tmp_path: Path) -> None:
    audit = Audit(clients=[client], obfuscations=[obfuscations.parse("none")], attacks=[attacks.parse("unveil")])
    with using("float32"):
        prepare(tmp_path, audit.settings())
        prepare(tmp_path, audit.settings())
    with using("bfloat16"), pytest.raises(UsageError, match=r"arithmetic.* was float32, now it is bfloat16"):
        prepare(tmp_path, audit.settings())


def test_results_without_it_are_still_read(client: Client, tmp_path: Path) -> None:
    trial = run_trial(client, obfuscations.parse("none"), attacks.parse("rog:steps=1"), seed=0)
    settings = {key: value for key, value in trial.settings.items() if key != "arithmetic"}
    prepare(tmp_path, {})
    append(tmp_path, type(trial)(**{**vars(trial), "settings": settings}))
    (read,) = read_trials(tmp_path)
    assert dict(read.settings) == settings


def test_forced_float32_rounds_no_product_and_puts_torch_back() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with using("float32"), chosen_precision(CPU):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
        assert machine(CPU)["float32 products"] == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("chosen", "products", "convolutions"),
    [("auto", None, "no"), ("bfloat16", None, "no"), ("float32", None, "no"), ("tf32", "high", "yes")],
)
def test_a_card_rounds_to_tf32_only_where_that_is_chosen(
    chosen: Choice, products: str | None, convolutions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with pretended_card(monkeypatch), using(chosen):
        found = machine(CARD)
        assert arithmetic_on(CARD) == ("bfloat16" if chosen == "auto" else chosen)
        assert arithmetic_of(attacks.parse("rog"), CARD) == ("tf32" if chosen == "tf32" else "float32")
    assert (found.get("float32 products"), found["tf32"], found["card"]) == (products, convolutions, NAME)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    with using(chosen):
        assert "tf32" not in machine(CPU)


def test_a_processor_has_no_tf32() -> None:
    with using("tf32"):
        assert arithmetic_on(CPU) == "float32"
        assert arithmetic_of(attacks.parse("rog"), CPU) == "float32"


def test_norms_in_rough_steps_give_no_warning() -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    with using("bfloat16"), rough_steps(images):
        found = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.RMSNorm([3, 4, 4]))(images)
    assert found.isfinite().all()
