"""The plain answer, the table and the page, from assessments whose figures are known."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from advice.made import BASE, advice, assessment
from gate.made import LEAK, NOTHING, made
from unveil.advice.answer import headline, ranked, sentences
from unveil.advice.export import as_data
from unveil.advice.leakage import judged
from unveil.advice.page import in_bytes, lines, page
from unveil.advice.target import parse_target
from unveil.core.records import BASELINE
from unveil.gate.judging import Ruling
from unveil.metrics import FACTS
from unveil.report.conclusion import LOWER_BOUND

SAFE, HALF = NOTHING["psnr"], [13.0, 13.2] * 4
CHEAP = assessment("topk:density=0.01", SAFE, bits=1000)
DEAR = assessment(
    "gaussian:relative=10", SAFE, right=(0.0,) * 9 + (1.0,), bits=16_000, candidate="gaussian:relative=0.1..10"
)
WEAK = assessment("gaussian:relative=0.1", LEAK["psnr"], bits=16_000, candidate="gaussian:relative=0.1..10")
MIDDLE = assessment("gaussian:relative=1", HALF, bits=16_000, candidate="gaussian:relative=0.1..10")
BROKEN = assessment("sign", None)


def test_the_cheapest_setting_is_named_with_what_it_costs_and_saves() -> None:
    found = advice(DEAR, CHEAP)
    assert ranked(found) == [CHEAP, DEAR]
    # 9 of 10 test pictures right without, 8 with it; 16,000 bits without, 1,000 with it
    assert headline(found) == (
        "The cheapest setting that meets `psnr <= 14.0 dB` is `topk:density=0.01`: it costs 10.0 points of accuracy "
        "[0.0, 30.0] and sends 16× fewer bytes."
    )
    assert "Not meeting it: `none` (psnr 26.2 dB, up to 27.0 dB, at the start of the training)." in sentences(found)


def test_a_search_says_what_is_enough_and_what_is_not() -> None:
    found = advice(DEAR, WEAK, MIDDLE, candidates=["gaussian:relative=0.1..10"])
    assert sentences(found)[0] == (
        "Of `gaussian:relative=0.1..10` the weakest setting found that meets the target is `gaussian:relative=1`; the "
        "next weaker one that was tried, `gaussian:relative=0.1`, does not."
    )
    assert [one.obfuscation for one in ranked(found)] == ["gaussian:relative=1", "gaussian:relative=10"]


def test_an_unreachable_target_names_the_nearest_setting() -> None:
    near = assessment("gaussian:relative=5", [15.0, 15.4] * 4)
    found = advice(WEAK, near)
    assert headline(found).startswith(
        "No setting meets `psnr <= 14.0 dB`. The nearest is `gaussian:relative=5`: psnr 15.2 dB"
    )
    strong = assessment("gaussian:relative=10", LEAK["psnr"], candidate="gaussian:relative=0.1..10")
    only = advice(strong, candidates=["gaussian:relative=0.1..10"])
    assert sentences(only)[0] == "Even the strong end of `gaussian:relative=0.1..10` does not meet the target."


def test_a_target_below_a_blind_guess_is_said_to_be_out_of_reach() -> None:
    bare = assessment(BASELINE, LEAK["psnr"], candidate="", target="psnr <= 10")
    found = advice(assessment("fp16", LEAK["psnr"]), baseline=bare, target="psnr <= 10")
    # the made trials have a blind guess of 11 dB
    assert sentences(found)[0].startswith(
        "A blind guess, a grey picture without any update, scores 11.0 dB: no setting can"
    )
    assert not any("blind" in sentence for sentence in sentences(advice(CHEAP)))


def test_a_training_that_breaks_is_a_result() -> None:
    assert "Through `gaussian:relative=10` the trained model is no better than a guess: 10.0 % right." in sentences(
        advice(DEAR)
    )
    assert BROKEN.ruling is Ruling.UNJUDGED
    (sentence,) = [one for one in sentences(advice(BROKEN, CHEAP)) if "`sign`" in one]
    assert sentence.startswith("`sign` could not be judged: its training diverges in round 2")


def test_where_attacks_fail_on_the_bare_update_nothing_is_judged() -> None:
    bare = assessment(BASELINE, SAFE, candidate="", bare=SAFE)
    assert bare.ruling is Ruling.UNJUDGED
    found = advice(baseline=bare, candidates=["fp16"])
    assert headline(found).startswith("Nothing could be judged: no attack finds anything in the bare update.")


def test_a_federation_that_needs_no_obfuscation_is_told_so() -> None:
    bare = assessment(BASELINE, LEAK["psnr"], candidate="", target="psnr <= 30")
    assert headline(advice(CHEAP, baseline=bare)) == "The federation meets `psnr <= 14.0 dB` without any obfuscation."


def test_what_the_budget_left_out_is_named() -> None:
    found = advice(CHEAP, candidates=["topk:density=0.01", "fp16", "sign"], left_out=2)
    assert "Left out or not finished, because the budget was used up: `fp16` and `sign`." in sentences(found)
    assert "the baseline alone used up the budget" in headline(advice(candidates=["fp16"], left_out=1))


def test_the_lines_have_the_figures() -> None:
    base, cheap, broken = lines(advice(CHEAP, BROKEN))
    assert (base.leakage, base.accuracy, base.cost, base.size) == ("26.2 dB", "90.0%", "–", "2 kB")
    assert (cheap.leakage, cheap.bound, cheap.worst_at) == ("11.2 dB", "11.2 dB", "start, rog")
    assert (cheap.cost, cheap.smaller, cheap.verdict) == ("10.0 [0.0, 30.0]", "16×", "meets it")
    assert (broken.leakage, broken.verdict, broken.accuracy) == ("–", "not judged", "80.0% (diverged)")


@pytest.mark.parametrize(("bits", "text"), [(8, "1 B"), (12_000, "1.5 kB"), (8_640_000_000, "1.08 GB")])
def test_sizes_are_in_bytes(bits: float, text: str) -> None:
    assert in_bytes(bits) == text


def test_the_page_has_chart_table_answer_and_what_is_not_proved() -> None:
    found = advice(
        DEAR, WEAK, MIDDLE, CHEAP, BROKEN, candidates=["gaussian:relative=0.1..10", "sign", "topk:density=0.01"]
    )
    text = page(found, command="unveil advise <b>.toml")
    assert "<script" not in text
    assert "unveil advise &lt;b&gt;.toml" in text
    assert LOWER_BOUND in text
    discs = {m[0]: float(m[1]) for m in re.findall(r"<title>([^:<]+:[^:<]+):[^<]*</title>.*?r=\"([\d.]+)\"", text)}
    assert "gaussian:relative=10" in discs
    # areas are as the bytes: 16,000 bits and 1,000
    assert (discs["gaussian:relative=10"] / discs["topk:density=0.01"]) ** 2 == pytest.approx(16, rel=0.05)
    assert "sign" not in " ".join(discs)


def test_the_data_are_plain_json() -> None:
    data = json.loads(json.dumps(as_data(advice(CHEAP, BROKEN))))
    assert data["cheapest"] == "topk:density=0.01"
    base, cheap, broken = data["assessments"]
    assert (base["wire_bytes"], cheap["wire_bytes"], broken["diverged_in_round"]) == (2000, 125, 2)
    assert cheap["leakage"][0]["phase"] == "start"
    assert BASE.wire_bits == 16_000


def test_an_attack_that_works_on_one_client_counts_on_all_of_its_round() -> None:
    target = parse_target("psnr <= 20", list(FACTS), ["psnr"])
    trials, both = [], {"start": ["client 1, start", "client 2, start"]}
    for name, bare in zip(both["start"], (LEAK, NOTHING), strict=True):
        trials += [made(BASELINE, bare, client=name), made("fp16", NOTHING, client=name)]
    (judgement,) = judged(trials, both, "fp16", target).judgements["start"]
    assert judgement.ruling is Ruling.PASSED
    assert judgement.pool.pictures == sum(row.pictures for row in judgement.pool.conclusive(target.facts)) == 16
    alone = judged(trials[2:], both, "fp16", target)  # the client on which it fails
    assert (alone.ruling, alone.unjudged_phases) == (Ruling.UNJUDGED, ["start"])


LEFT = "At the middle of the training 1 of 2 attacked clients have nothing to attack: the update is all zeros."


@pytest.mark.parametrize(
    ("target", "found", "ruling", "says"),
    [
        ("psnr <= 14", 0.0, Ruling.PASSED, f"`sign`: {LEFT} The other clients were judged there."),
        # none of 16 pictures is up to 19.4 % with 95 % confidence, none of 8 up to 32.4 %
        (
            "reid_top1 <= 20%",
            0.0,
            Ruling.UNJUDGED,
            f"`sign` could not be judged: {LEFT} The pictures of the others are too few for the target.",
        ),
        ("reid_top1 <= 20%", 1.0, Ruling.EXCEEDED, f"`sign`: {LEFT} The other clients were judged there."),
    ],
)
def test_clients_with_nothing_to_attack_are_left_out_and_named(
    target: str, found: float, ruling: Ruling, says: str
) -> None:
    clients = {"start": ["client 1, start", "client 2, start"], "middle": ["client 2, middle after sign"]}
    trials = []
    for name in (*clients["start"], *clients["middle"]):
        rate = found if "middle" in name else 0.0
        trials += [
            made(BASELINE, {**LEAK, "reid_top1": [1.0] * 8}, client=name),
            made("sign", {**NOTHING, "reid_top1": [rate] * 8}, client=name),
        ]
    condition = parse_target(target, list(FACTS), ["psnr", "reid_top1"])
    leakage = judged(trials, clients, "sign", condition, left_out={"middle": LEFT})  # type: ignore[arg-type]
    assert leakage.ruling is ruling
    one = replace(assessment("sign", SAFE), leakage=leakage)
    assert says in sentences(advice(one))
    bare = replace(BASE, leakage=judged([], {"start": []}, BASELINE, condition, left_out={"start": LEFT}))
    assert headline(advice(baseline=bare)) == f"Nothing could be judged: {LEFT}"


def test_a_setting_of_which_some_rounds_were_not_judged_says_so() -> None:
    target = parse_target("psnr <= 20", list(FACTS), ["psnr"])
    phases = {"start": ["client 1, start"], "end": ["client 1, end"]}
    trials = []
    for (name,), bare in zip(phases.values(), (NOTHING, LEAK), strict=True):
        trials += [made(BASELINE, bare, client=name), made("fp16", NOTHING, client=name)]
    leakage = judged(trials, phases, "fp16", target)
    assert (leakage.ruling, leakage.unjudged_phases) == (Ruling.PASSED, ["start"])
    said = sentences(advice(replace(CHEAP, leakage=leakage)))
    (sentence,) = [one for one in said if "nothing was judged there" in one]
    assert sentence.startswith(f"`{CHEAP.obfuscation}`: at the start of the training no attack finds anything")
