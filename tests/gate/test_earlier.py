"""What is compared with an earlier audit, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gate.made import LEAK, NOTHING, beside_baseline, client_table, made, settings_of
from unveil.core.records import Trial
from unveil.gate.decision import Decision
from unveil.gate.earlier import Earlier
from unveil.gate.gate import decide


def compared(
    now: Sequence[Trial],
    before: Sequence[Trial],
    *fail_on: str,
    settings: dict[str, Any] | None = None,
    earlier: dict[str, Any] | None = None,
    chosen: Sequence[str] = (),
) -> Decision:
    then = Earlier(name="old", trials=before, settings={**settings_of(before), **(earlier or {})})
    return decide(now, {**settings_of(now), **(settings or {})}, fail_on, chosen=chosen, earlier=then)


MORE = {"psnr": [value + 0.5 for value in LEAK["psnr"]], "ssim": LEAK["ssim"]}
SAME = beside_baseline(made("fp16"))
RISEN = beside_baseline(made("fp16", MORE))


def test_the_same_audit_has_no_rise() -> None:
    decision = compared(SAME, SAME)
    assert decision.exit_code == 0
    assert [one.rule for one in decision.judgements] == ["psnr.rise", "ssim.rise"]
    assert decision.remarks == ()
    assert decision.sentence.startswith("Passed: no value rose significantly since old. A failed attack")


def test_a_rise_is_exit_code_one_and_named() -> None:
    decision = compared(RISEN, SAME)
    assert decision.exit_code == 1
    assert [one.rule for one in decision.exceeded] == ["psnr.rise"]
    assert decision.sentence == "Exceeded: 1 of 2 values rose significantly since old."
    assert compared(SAME, RISEN).exit_code == 0


def test_the_metrics_of_the_conditions_are_compared() -> None:
    decision = compared(RISEN, SAME, "ssim > 0.9", "ssim.worst > 0.9")
    assert [one.rule for one in decision.judgements] == ["ssim.mean", "ssim.worst", "ssim.rise"]
    assert decision.exit_code == 0
    both = compared(RISEN, SAME, "psnr > 20")
    assert both.sentence == (
        "Exceeded: the one value lies beyond the limit and the one value rose significantly since old."
    )


@pytest.mark.parametrize("same", [True, False])
def test_pictures_are_paired_where_their_digests_are_the_same(same: bool) -> None:
    earlier = {} if same else {"clients": [client_table(pictures="others")]}
    decision = compared(RISEN, SAME, "psnr > 40", earlier=earlier)
    rise = decision.judgements[-1]
    assert ("over the same 8 pictures" in rise.sentence) is same
    assert decision.exit_code == (1 if same else 0)
    said = "Since old: pictures of hospital was others, is digest of hospital."
    assert decision.remarks == (() if same else (said,))


def test_without_digests_or_with_another_number_of_pictures_nothing_is_paired() -> None:
    tables = {"clients": [{"name": "hospital", "training": "fedsgd"}]}
    decision = compared(RISEN, SAME, settings=tables, earlier=tables)
    assert "over other pictures" in decision.judgements[0].sentence
    fewer = beside_baseline(made("fp16", {name: values[:6] for name, values in LEAK.items()}))
    assert "over other pictures" in compared(RISEN, fewer).judgements[0].sentence


def test_batches_are_compared_together() -> None:
    def batches(psnr: float) -> list[Trial]:
        scores = {"psnr": [psnr] * 3, "ssim": [0.5] * 3}
        return beside_baseline(*(made("fp16", scores, client=f"a {number}") for number in (1, 2)))

    decision = compared(batches(21.0), batches(20.0), "psnr > 30")
    assert "over the same 6 pictures since old (p = 0.016, one-sided)" in decision.judgements[-1].sentence
    assert decision.exit_code == 1
    other = [trial for trial in batches(20.0) if trial.settings["client"] == "a 1"]
    decision = compared(batches(21.0), other, "psnr > 30")
    assert decision.exit_code == 5
    assert "3 pictures are too few" in decision.judgements[-1].sentence
    assert decision.remarks[0] == "New, and not compared: fp16, a 2, fedsgd, rog, everything known."


def test_new_and_missing_rows_are_named_and_not_judged() -> None:
    now = beside_baseline(made("fp16"), made("sign"))
    before = beside_baseline(made("fp16"), *(made(f"uniform:bits={bits}") for bits in range(2, 8)))
    decision = compared(now, before)
    assert decision.exit_code == 0
    assert {one.pool.obfuscation for one in decision.judgements} == {"fp16"}
    assert decision.remarks == (
        "New, and not compared: sign, hospital, fedsgd, rog, everything known.",
        "In old and not here: "
        + "".join(f"uniform:bits={bits}, hospital, fedsgd, rog, everything known; " for bits in range(2, 6))
        + "and 2 more.",
    )


def test_a_chosen_obfuscation_is_compared_alone() -> None:
    now, before = beside_baseline(made("fp16", MORE), made("sign")), beside_baseline(made("fp16"), made("sign"))
    assert compared(now, before, chosen=["sign"]).exit_code == 0
    assert compared(now, before, chosen=["fp16"]).exit_code == 1


@pytest.mark.parametrize("other", [{"attack": "idlg"}, {"client": "clinic"}, {"threat_model": "labels unknown"}])
def test_rows_of_other_settings_are_not_compared(other: dict[str, str]) -> None:
    decision = compared(SAME, beside_baseline(made("fp16", **other)))
    assert decision.exit_code == 5
    assert "old has nothing to compare with: no row of the same client, training, obfuscation" in decision.sentence


def test_an_earlier_folder_without_trials_or_not_finished_is_said() -> None:
    assert compared(SAME, []).exit_code == 5
    unfinished = compared(SAME, SAME, earlier={"seeds": [0, 1]})
    assert "old is not finished; what it has is compared." in unfinished.remarks
    assert unfinished.exit_code == 0


def test_what_else_is_different_is_said() -> None:
    before = beside_baseline(made("fp16", versions={"unveil": "0.0.9", "torch": "2.6"}))
    earlier = {"clients": [client_table(weights="before")], "seeds": [0], "controls": ["another client"]}
    (remark,) = compared(SAME, [before[0], before[1]], earlier=earlier).remarks
    assert remark == (
        "Since old: weights of hospital was before, is 0123456789ab; controls was ['another client'], is []; "
        "unveil was 0.0.9 and 0.1.0, is 0.1.0."
    )


def test_metrics_of_other_settings_are_not_compared() -> None:
    scores = {**LEAK, "reid_top1": [0.0] * 8}
    trials = beside_baseline(made("fp16", scores), baseline=scores)
    decision = compared(trials, trials, "reid_top1 > 0.5", "psnr > 30", earlier={"metrics": {"decoys": 6}})
    assert decision.exit_code == 5
    (unjudged,) = decision.unjudged
    assert unjudged.rule == "reid_top1.rise"
    assert unjudged.sentence.startswith("reid_top1 is not comparable with old: the settings under metrics differ")
    assert compared(trials, trials, "reid_top1 > 0.5", "psnr > 30").exit_code == 0


def test_where_the_attack_fails_now_no_rise_is_no_pass() -> None:
    now = beside_baseline(made("fp16", NOTHING), baseline=NOTHING)
    assert compared(now, SAME).exit_code == 5


def test_damaged_settings_are_no_reason_to_fall_over() -> None:
    for damaged in ({"clients": 3, "metrics": "x"}, {"clients": [1, {"pictures": 2}]}, {"recordings": {"a": 1}}):
        decision = compared(SAME, SAME, settings=damaged, earlier={"clients": None})
        assert decision.exceeded == []
        assert len(decision.judgements) == 2
