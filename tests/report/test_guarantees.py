"""Differential privacy in the report and in the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from report.conftest import MakeTrial
from unveil import obfuscations
from unveil.clients import training
from unveil.core.guarantees import PrivacyStatement
from unveil.core.records import Trial
from unveil.privacy.statements import privacy_statements
from unveil.privacy.terms import PrivacyTerms
from unveil.report.guarantees import common, epsilon, privacy_lines, sentence, stated, summary
from unveil.report.html import write_report
from unveil.report.pooling import summarise
from unveil.report.table import print_table


def of(local: str, obfuscation: str, terms: PrivacyTerms | None = None) -> list[PrivacyStatement]:
    return privacy_statements(training.parse(local), obfuscations.parse(obfuscation), 8, terms)


@pytest.fixture
def trials(trial: MakeTrial) -> list[Trial]:
    specs = ("none", "topk:density=0.05", "gaussian:relative=1", "dpsgd:clip=1,noise=4")
    return [trial(obfuscation=spec, privacy=of("fedsgd", spec)) for spec in specs]


def test_a_statement_in_words() -> None:
    (found,) = of("fedsgd", "dpsgd:clip=1,noise=4", PrivacyTerms(rounds=4))
    said = sentence(found)
    assert said == (
        "ε = 4.38 at δ = 1e-05 for one client over 4 updates: when it is replaced, any conclusion becomes at most 79.7 "
        "times as likely, plus 1e-05. Computed by closed form (Gaussian mechanism)."
    )
    (none,) = of("fedsgd", "gaussian:relative=1")
    assert sentence(none).startswith("No guarantee. Noise without clipping guarantees nothing")
    assert sentence(None).startswith("No guarantee: nothing is clipped")


@pytest.mark.parametrize(
    ("claim", "words"), [(10.0, "claims ε = 10, which holds."), (2.0, "claims ε = 2, but 4.38 is what holds.")]
)
def test_a_claim_stands_beside_what_holds(claim: float, words: str) -> None:
    (found,) = of("fedsgd", "dpsgd:clip=1,noise=4", PrivacyTerms(rounds=4, claimed_epsilon=claim))
    assert sentence(found).endswith(words)
    (none,) = of("fedsgd", "gaussian:sigma=4", PrivacyTerms(claimed_epsilon=claim))
    assert sentence(none).endswith(f"The client's software claims ε = {claim:g}.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.2341, "1.24"), (1.23, "1.23"), (99.91, "100"), (12345.0, "12,400"), (5e7, "50,000,000")],
)
def test_epsilon_is_rounded_up(value: float, text: str) -> None:
    assert epsilon(value) == text


def test_the_report_has_a_table_of_guarantees_and_what_they_rest_on(trials: list[Trial], folder: Path) -> None:
    page = write_report(folder, trials).read_text(encoding="utf-8")
    assert "What theory allows any attack" in page
    assert "ε = 2 at δ = 1e-05 for one client over 1 update" in page
    assert "No guarantee. Noise without clipping guarantees nothing" in page
    assert "No guarantee: nothing is clipped and no noise is added." in page
    assert "Neighbours differ in everything that the client has" in page
    lines = privacy_lines(summarise(trials))
    assert [bool(line.picks) for line in lines] == [False, False, False, True]
    assert lines[-1].picks == ["0.152", "0.019", "0.003"]  # Phi(Phi^-1(1 / N) + 1 / 4), rounded up
    assert [names for _, names in stated(lines)] == [["dpsgd:clip=1,noise=4"]]


def test_what_all_guarantees_rest_on_stands_once(trial: MakeTrial, folder: Path) -> None:
    specs = ("dpsgd:clip=1,noise=4", "dpsgd:clip=1,noise=8")
    made = [trial(obfuscation=spec, privacy=of("fedsgd", spec)) for spec in specs]
    page = write_report(folder, made).read_text(encoding="utf-8")
    assert page.count("Neighbours differ in everything that the client has") == 1
    assert page.count("every entry gets noise of standard deviation") == 2
    lines = privacy_lines(summarise(made))
    assert [len(statement.assumptions) for statement, _ in stated(lines)] == [len(common(lines)) + 1] * 2


def test_columns_of_bounds_are_there_only_where_some_row_has_one(
    trial: MakeTrial, trials: list[Trial], folder: Path
) -> None:
    bounded = write_report(folder, trials).read_text(encoding="utf-8")
    assert "Found among 10, at most" in bounded
    specs = ("none", "gaussian:relative=1")
    bare = [trial(obfuscation=spec, privacy=of("fedsgd", spec)) for spec in specs]
    page = write_report(folder, bare).read_text(encoding="utf-8")
    assert "What theory allows any attack" in page
    assert "Found among" not in page
    assert "Found first, by this attack" not in page


def test_without_noise_and_clipping_the_report_is_silent(trial: MakeTrial, folder: Path) -> None:
    made = [trial(), trial(obfuscation="topk:density=0.05")]
    assert privacy_lines(summarise(made)) == []
    assert summary(summarise(made)) == ""
    assert "What theory allows any attack" not in write_report(folder, made).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("local", "obfuscation", "without_noise", "name"),
    [
        ("fedsgd:clip=1,noise=1", "none", "fedsgd", "fedsgd:clip=1,noise=1"),
        ("fedsgd:clip=1,noise=1", "fp16", "fedsgd", "fedsgd:clip=1,noise=1, then fp16"),
        ("fedsgd:clip=1", "gaussian:sigma=0.1", "", "fedsgd:clip=1, then gaussian:sigma=0.1"),
        ("fedsgd:clip=1", "dpsgd:clip=1,noise=1", "", "dpsgd:clip=1,noise=1"),
        ("fedavg:steps=1,lr=1,clip=1,noise=1", "unknown, as exact", "", "fedavg:steps=1,lr=1,clip=1,noise=1"),
    ],
)
def test_the_line_names_what_makes_it_private(
    trial: MakeTrial, local: str, obfuscation: str, without_noise: str, name: str
) -> None:
    stages = "none" if obfuscation.startswith("unknown") else obfuscation
    made = trial(training=local, obfuscation=obfuscation, privacy=of(local, stages))
    line = summary(summarise([replace(made, without_noise=without_noise)]))
    assert line.startswith(f"Differential privacy: {name} ε ")


def test_the_terminal_has_one_line(trials: list[Trial]) -> None:
    text = io.StringIO()
    print_table(trials, Console(file=text, width=400))
    line = next(line for line in text.getvalue().splitlines() if line.startswith("Differential privacy"))
    guaranteed = "dpsgd:clip=1,noise=4 ε 2 at δ 1e-05 for one client"
    assert line == f"Differential privacy: {guaranteed}; no guarantee for gaussian:relative=1."
