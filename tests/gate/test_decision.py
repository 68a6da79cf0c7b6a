"""Exit codes, and the judgements that decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gate.made import LEAK, NOTHING, beside_baseline, made, settings_of
from unveil.core.errors import UsageError
from unveil.core.records import Trial
from unveil.gate.decision import Decision
from unveil.gate.gate import decide
from unveil.gate.judging import Ruling
from unveil.report.conclusion import NOT_PROVED


def decided(trials: Sequence[Trial], *fail_on: str, chosen: Sequence[str] = (), **settings: Any) -> Decision:
    return decide(trials, settings_of(trials, **settings), fail_on, chosen=chosen)


GOOD = beside_baseline(made("fp16"), made("sign", NOTHING))


def test_all_within_the_limits_is_zero_and_says_what_it_does_not_prove() -> None:
    decision = decided(GOOD, "psnr > 30", "ssim > 0.9")
    assert decision.exit_code == 0
    assert decision.sentence == (
        "Passed: all 4 values lie within the limit. A failed attack is a lower bound on what an update gives away, "
        "never a proof that it gives nothing away."
    )
    assert decision.sentence.removeprefix("Passed: all 4 values lie within the limit. ") in NOT_PROVED[0]


def test_one_value_beyond_its_limit_is_one() -> None:
    decision = decided(GOOD, "psnr > 20", "ssim > 0.9")
    assert decision.exit_code == 1
    assert [(one.condition, one.pool.obfuscation) for one in decision.exceeded] == [("psnr > 20", "fp16")]
    assert decision.sentence == "Exceeded: 1 of 4 values lies beyond the limit."


def test_an_attack_that_fails_on_the_bare_update_is_five() -> None:
    decision = decided(beside_baseline(made("sign", NOTHING), baseline=NOTHING), "psnr > 20")
    assert decision.exit_code == 5
    assert decision.sentence.startswith("Not judged: This attack fails even on the bare update")


def test_one_attack_that_works_is_enough_for_an_obfuscation() -> None:
    works = beside_baseline(made("sign", NOTHING))
    fails = beside_baseline(made("sign", NOTHING, attack="dlg"), baseline=NOTHING)
    decision = decided([*works, *fails], "psnr > 20")
    assert [one.ruling for one in decision.judgements] == [Ruling.PASSED, Ruling.UNJUDGED]
    assert (decision.exit_code, decision.unjudged) == (0, [])
    assert [one.pool.attacker for one in decision.deciding] == ["rog, everything known"]


@pytest.mark.parametrize("other", [{"client": "clinic"}, {"obfuscation": "fp16"}])
def test_an_attack_that_works_elsewhere_is_not_enough(other: dict[str, str]) -> None:
    there = {"obfuscation": "sign", "client": "hospital", "attack": "dlg", **other}
    works = beside_baseline(made("sign", NOTHING))
    fails = beside_baseline(made(there["obfuscation"], NOTHING, client=there["client"], attack="dlg"), baseline=NOTHING)
    tables = {"clients": [{"name": "hospital", "training": "fedsgd"}, {"name": "clinic", "training": "fedavg"}]}
    trials = [*works, *fails]
    decision = decide(trials, {**settings_of(trials), **tables, "seeds": []}, ["psnr > 20"])
    assert decision.exit_code == 5
    assert len(decision.unjudged) == 1


def test_a_metric_that_was_not_computed_is_five_though_another_was() -> None:
    decision = decided(GOOD, "psnr > 30", "lpips < 0.1")
    assert decision.exit_code == 5
    assert {one.condition for one in decision.unjudged} == {"lpips < 0.1"}


def test_beyond_the_limit_wins_over_not_judged() -> None:
    assert decided(GOOD, "psnr > 20", "lpips < 0.1").exit_code == 1


def test_no_judgement_is_never_a_pass() -> None:
    assert Decision(judgements=()).exit_code == 5


def test_an_empty_folder_is_five() -> None:
    decision = decide([], {}, ["psnr > 20"])
    assert decision.exit_code == 5
    assert decision.sentence == "Not judged: Nothing was audited; run `unveil audit` into this folder."


def test_an_unfinished_folder_is_five_and_names_what_is_missing() -> None:
    decision = decided(GOOD, "psnr > 30", seeds=[0, 1])
    assert decision.exit_code == 5
    assert decision.sentence == (
        "Not judged: The audit is not finished: client hospital, none, rog, everything known, seed 1; client hospital, "
        "fp16, rog, everything known, seed 1; client hospital, sign, rog, everything known, seed 1. Run the same "
        "`unveil audit` again, which goes on where it stopped."
    )
    assert "and 6 more." in decided(GOOD, "psnr > 30", seeds=[0, 1, 2, 3]).sentence
    assert decided(GOOD, "psnr > 20", seeds=[0, 1]).exit_code == 1


def test_the_baseline_alone_is_five_unless_it_is_chosen() -> None:
    decision = decided([made("none", LEAK)], "psnr > 30")
    assert decision.exit_code == 5
    assert "no row but the baseline; audit an obfuscation, or judge the baseline itself" in decision.sentence
    assert decided([made("none", LEAK)], "psnr > 30", chosen=["none"]).exit_code == 0
    assert decided([made("none", NOTHING)], "psnr > 30", chosen=["none"]).exit_code == 5


def test_a_chosen_obfuscation_is_judged_alone() -> None:
    assert decided(GOOD, "psnr > 20", chosen=["sign"]).exit_code == 0
    assert decided(GOOD, "psnr > 20", chosen=["fp16"]).exit_code == 1
    with pytest.raises(UsageError, match=r"--obfuscation 'sing': the audit has no such row; did you mean 'sign'\?"):
        decided(GOOD, "psnr > 20", chosen=["sing"])


def test_a_chosen_obfuscation_that_is_not_there_yet_is_five() -> None:
    decision = decided(GOOD, "psnr > 30", chosen=["nf4"], obfuscations=["none", "fp16", "sign", "nf4"])
    assert decision.exit_code == 5
    assert "not finished: client hospital, nf4" in decision.sentence


def test_what_decides_is_what_fails_or_else_lies_nearest_to_the_limit() -> None:
    strong = {"psnr": [20.0] * 8, "ssim": [0.5] * 8}
    trials = beside_baseline(
        made("fp16"), made("fp16", strong, attack="idlg"), made("sign", NOTHING), made("sign", strong, attack="idlg")
    )
    passed = decided(trials, "psnr > 30").deciding
    assert [(one.pool.obfuscation, one.value) for one in passed] == [("fp16", 26.25), ("sign", 20.0)]
    failed = decided(trials, "psnr > 19").deciding
    assert [(one.pool.obfuscation, one.value, one.ruling) for one in failed] == [
        ("fp16", 26.25, Ruling.EXCEEDED),
        ("fp16", 20.0, Ruling.EXCEEDED),
        ("sign", 20.0, Ruling.EXCEEDED),
    ]
