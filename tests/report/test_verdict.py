import itertools
from collections.abc import Callable

import pytest

from fakes import with_attack
from unveil.core.reconstruction import Stop
from unveil.core.records import Trial
from unveil.report import Level, headline, recommendation, summarise
from unveil.report.conclusion import NOT_PROVED
from unveil.report.levels import LEAK_GAIN_DB

LEAK = {"psnr": [25.0, 26.0, 27.0, 28.0, 25.5, 26.5, 27.5, 24.5], "ssim": [0.8] * 8}
PART = {"psnr": [15.0] * 8, "ssim": [0.25] * 8}
NOTHING = {"psnr": [11.2] * 8, "ssim": [0.1] * 8}
WHAT = {"leak": LEAK, "part": PART, "nothing": NOTHING}
MakeTrial = Callable[..., Trial]


@pytest.mark.parametrize(
    ("control", "tested", "level"),
    [
        ("leak", "leak", Level.LEAKS),
        ("leak", "part", Level.PARTLY),
        ("leak", "nothing", Level.NONE),
        ("part", "nothing", Level.NONE),
        ("nothing", "nothing", Level.INCONCLUSIVE),
        (None, "nothing", Level.INCONCLUSIVE),
        (None, "leak", Level.LEAKS),
        ("nothing", "leak", Level.LEAKS),  # what was measured is a fact, whatever the control did
    ],
)
def test_level(trial: MakeTrial, control: str | None, tested: str, level: Level) -> None:
    trials = [trial(obfuscation="fp16", **WHAT[tested])]
    if control:
        trials.append(trial(**WHAT[control]))
    assert summarise(trials)[-1].verdict.level is level


def test_where_the_control_failed_too_the_obfuscation_is_untested(trial: MakeTrial) -> None:
    control, row = summarise([trial(**NOTHING), trial(obfuscation="fp16", **NOTHING)])
    assert control.verdict.level is Level.INCONCLUSIVE
    assert "fails even on the bare update, so the obfuscation is untested" in row.verdict.sentence


def test_a_missing_baseline_is_said(trial: MakeTrial) -> None:
    for found in WHAT.values():
        (row,) = summarise([trial(obfuscation="fp16", **found)])
        assert any("no baseline" in caveat for caveat in row.verdict.caveats)


def test_a_leak_needs_structure_and_not_only_colours(trial: MakeTrial) -> None:
    (row,) = summarise([trial(psnr=[22.0] * 8, ssim=[0.25] * 8)])
    assert row.verdict.level is Level.PARTLY


def test_a_leak_is_judged_by_the_lower_end_of_the_interval(trial: MakeTrial) -> None:
    spread = [11.0 + LEAK_GAIN_DB - 4, 11.0 + LEAK_GAIN_DB - 4, 11.0 + LEAK_GAIN_DB - 4, 40.0]
    (row,) = summarise([trial(psnr=spread)])
    gain = row.scores["psnr"].gain
    assert gain is not None
    assert gain.mean > LEAK_GAIN_DB > gain.low
    assert row.verdict.level is Level.PARTLY


def test_one_picture_that_came_back_is_something(trial: MakeTrial) -> None:
    one = trial(obfuscation="fp16", psnr=[30.0, *[8.0] * 7], ssim=[0.9, *[0.1] * 7])
    verdict = summarise([trial(), one])[1].verdict
    assert verdict.level is Level.PARTLY
    assert "1 of 8 came back" in verdict.sentence


def test_a_dark_copy_is_something_although_its_pixels_score_low(trial: MakeTrial) -> None:
    dark = trial(obfuscation="fp16", correlation=[0.7] * 8, **NOTHING)
    verdict = summarise([trial(), dark])[1].verdict
    assert verdict.level is Level.PARTLY
    assert any("Correlation with the originals is 0.70" in reason for reason in verdict.reasons)
    chance = trial(obfuscation="fp16", correlation=[0.2] * 8, **NOTHING)
    assert summarise([trial(), chance])[1].verdict.level is Level.NONE
    one = trial(obfuscation="fp16", correlation=[0.9, *[0.1] * 7], **NOTHING)
    assert summarise([trial(), one])[1].verdict.level is Level.PARTLY


def test_half_of_the_pictures_are_a_leak(trial: MakeTrial) -> None:
    half = trial(obfuscation="fp16", psnr=[30.0] * 4 + [8.0] * 4, ssim=[0.9] * 4 + [0.1] * 4)
    assert summarise([trial(), half])[1].verdict.level is Level.LEAKS


def test_if_every_run_diverged_its_failure_says_nothing(trial: MakeTrial) -> None:
    runs = [trial(obfuscation="fp16", seed=seed, stop=Stop.DIVERGED, **NOTHING) for seed in (0, 1)]
    verdict = summarise([trial(), *runs])[1].verdict
    assert verdict.level is Level.INCONCLUSIVE
    assert any("2 of 2 runs diverged" in caveat for caveat in verdict.caveats)


def test_one_diverged_run_is_mentioned_and_no_more(trial: MakeTrial) -> None:
    runs = [trial(obfuscation="fp16", seed=0, stop=Stop.DIVERGED, **LEAK), trial(obfuscation="fp16", seed=1, **LEAK)]
    verdict = summarise([trial(), *runs])[1].verdict
    assert verdict.level is Level.LEAKS
    assert any("1 of 2 runs diverged" in caveat for caveat in verdict.caveats)


def test_a_single_seed_and_few_pictures_are_said(trial: MakeTrial) -> None:
    few = " ".join(summarise([trial(psnr=[25.0, 26.0])])[0].verdict.caveats)
    assert "interval is across pictures" in few
    assert "Only 2 pictures" in few
    many = summarise([beside(trial(seed=0)), beside(trial(seed=1))])[0].verdict.caveats
    assert many == ()


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_a_missing_score_is_said(trial: MakeTrial, metric: str) -> None:
    one = trial(psnr=[]) if metric == "psnr" else trial(psnr=[25.0] * 8, ssim=[])
    verdict = summarise([one])[0].verdict
    if metric == "psnr":
        assert verdict.level is Level.INCONCLUSIVE
        assert "missing" in verdict.sentence
    else:
        assert verdict.level is Level.LEAKS
        assert any("PSNR alone" in caveat for caveat in verdict.caveats)


@pytest.mark.slow
def test_nothing_that_is_said_promises_privacy(trial: MakeTrial) -> None:
    said = [level.meaning for level in Level] + [level.value for level in Level] + list(NOT_PROVED)
    for control, one, two in itertools.product([*WHAT, None], WHAT, WHAT):
        trials = [trial(obfuscation="fp16", **WHAT[one]), trial(obfuscation="bf16", **WHAT[two])]
        trials += [trial(**WHAT[control])] if control else []
        rows = summarise(trials)
        said += [headline(rows), recommendation(rows)]
        for verdict in (row.verdict for row in rows):
            said += [verdict.sentence, *verdict.reasons, *verdict.caveats]
    text = " ".join(said).lower()
    for promise in ("protect", "safe", "secure", "guarantee"):
        assert promise not in text


def test_headline_of_a_free_lunch_says_that_nothing_was_hidden(trial: MakeTrial) -> None:
    rows = summarise([trial(), trial(obfuscation="fp16")])
    assert headline(rows) == (
        "The pictures came back through the obfuscation that was tested. `fp16` sends 8× fewer bits and hides nothing "
        "measurable: 26.2 dB against 26.2 dB without it."
    )


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ([], "Nothing was audited"),
        ([{}], "No obfuscation was tested"),
        ([NOTHING], "Inconclusive: This attack fails even on the bare update"),
        ([{}, {"obfuscation": "fp16", **NOTHING}], "No leakage was found behind the obfuscation that was tested"),
        ([{}, {"obfuscation": "fp16", **PART}], "Something of the pictures came back"),
        ([NOTHING, {"obfuscation": "fp16", **NOTHING}], "Inconclusive: the attack fails even on the bare update"),
        ([{"obfuscation": "fp16", **NOTHING}], "Inconclusive: the attack found nothing, and was never tried"),
        ([{"obfuscation": "fp16"}], "there is no run without it to compare with"),
        ([{}, {"obfuscation": "fp16", **LEAK}, {"obfuscation": "bf16", **NOTHING}], "through 1 of 2 obfuscations"),
        ([{}, {"obfuscation": "fp16"}, {"obfuscation": "bf16"}], "through all 2 obfuscations"),
    ],
)
def test_headline(trial: MakeTrial, trials: list[dict[str, object]], words: str) -> None:
    assert words in headline(summarise([trial(**settings) for settings in trials]))


def test_an_obfuscation_counts_once_however_many_scenes_it_was_tested_in(trial: MakeTrial) -> None:
    rows = summarise([trial(client=client, obfuscation=spec) for client in "abc" for spec in ("none", "fp16", "bf16")])
    assert "through all 2 obfuscations" in headline(rows)


@pytest.mark.parametrize("client", ["a", "b"])
def test_only_what_held_everywhere_is_recommended(trial: MakeTrial, client: str) -> None:
    trials = [trial(client=name, obfuscation=spec) for name in "ab" for spec in ("none", "fp16")]
    held = [trial(client=name, obfuscation="bf16", **NOTHING) for name in "ab"]
    assert "Look next at `bf16`" in recommendation(summarise([*trials, *held]))
    broken = [trial(client=n, obfuscation="bf16", **(LEAK if n == client else NOTHING)) for n in "ab"]
    assert "Look next" not in recommendation(summarise([*trials, *broken]))


def test_nothing_is_recommended_on_few_pictures_or_a_weak_control(trial: MakeTrial) -> None:
    few = [trial(psnr=[26.0] * 4), trial(obfuscation="fp16", psnr=[11.2] * 4, ssim=[0.1] * 4)]
    weak = [trial(**PART), trial(obfuscation="fp16", **NOTHING)]
    assert recommendation(summarise(few)) == ""
    assert recommendation(summarise(weak)) == ""


def test_what_leaks_is_not_to_be_counted_on(trial: MakeTrial) -> None:
    assert recommendation(summarise([trial(), trial(obfuscation="fp16")])).startswith("Do not count `fp16`")


ANOTHER = {"psnr": [9.0, 9.5, 10.0, 10.5, 9.2, 9.7, 10.2, 9.9], "ssim": [0.1] * 8, "correlation": [0.1] * 8}


def beside(trial: Trial, **scores: list[float]) -> Trial:
    """The trial with a control of another client."""
    return with_attack(trial, controls={"another client": {**ANOTHER, **scores}})


def test_more_than_every_control_is_something_however_little(trial: MakeTrial) -> None:
    faint = trial(obfuscation="fp16", psnr=[11.4] * 8, ssim=[0.22] * 8, correlation=[0.3] * 8, blind=11.0)
    verdict = summarise([trial(), beside(faint)])[1].verdict
    assert verdict.level is Level.PARTLY
    assert "seen in PSNR, dB, SSIM and Correlation" in verdict.sentence
    assert any("against no update, the control nearest to it: +0.4" in reason for reason in verdict.reasons)


def test_what_a_control_has_too_is_no_leak_and_the_bound_is_said(trial: MakeTrial) -> None:
    same = trial(obfuscation="fp16", psnr=[11.6, 11.2] * 4, ssim=[0.25] * 8, correlation=[0.5] * 8)
    assert summarise([trial(), same])[1].verdict.level is Level.PARTLY  # by the thresholds alone it would be one
    control = beside(same, psnr=[11.1, 11.7] * 4, ssim=[0.26] * 8, correlation=[0.52] * 8)
    verdict = summarise([trial(), control])[1].verdict
    assert verdict.level is Level.NONE
    assert "No leakage found by an attack that works here" in verdict.sentence
    assert "11.4 dB for the update of another client" in verdict.sentence
    assert "with 8 pictures, up to 32% of such pictures may still come back" in verdict.sentence


def test_only_the_control_that_explains_most_away_decides(trial: MakeTrial) -> None:
    row = trial(obfuscation="fp16", psnr=[14.0] * 8, ssim=[0.2] * 8, correlation=[0.3] * 8)
    labels = {"psnr": [14.5, 13.5] * 4, "ssim": [0.2] * 8, "correlation": [0.31] * 8}
    both = with_attack(row, controls={"another client": ANOTHER, "labels only": labels})
    assert summarise([trial(), both])[1].verdict.level is Level.NONE
    (found,) = [r for r in summarise([trial(), both]) if not r.is_baseline]
    assert found.scores["psnr"].contrasts[0].control == "labels only"


def test_pictures_came_back_only_above_the_controls_too(trial: MakeTrial) -> None:
    copy = trial(obfuscation="fp16", **LEAK)
    assert summarise([trial(), beside(copy)])[1].verdict.level is Level.LEAKS
    as_good = beside(copy, psnr=LEAK["psnr"], ssim=LEAK["ssim"])
    assert summarise([trial(), as_good])[1].verdict.level is Level.NONE


def test_too_few_pictures_for_a_p_value_are_judged_by_the_thresholds(trial: MakeTrial) -> None:
    few = trial(obfuscation="fp16", psnr=[15.0] * 3, ssim=[0.25] * 3)
    control = with_attack(few, controls={"another client": {"psnr": [9.0] * 3, "ssim": [0.1] * 3}})
    assert summarise([trial(psnr=[25.0] * 3), control])[1].verdict.level is Level.PARTLY


def test_that_no_control_was_run_is_said(trial: MakeTrial) -> None:
    (row,) = summarise([trial()])
    assert any("No control but the blind guess" in caveat for caveat in row.verdict.caveats)
    (row,) = summarise([beside(trial())])
    assert not any("No control but the blind guess" in caveat for caveat in row.verdict.caveats)
