import itertools
from collections.abc import Callable

import pytest

from unveil.core import Stop, Trial
from unveil.report import Level, headline, judge, recommendation, summarise
from unveil.report.headline import NOT_PROVED
from unveil.report.verdict import LEAK_GAIN_DB

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
        ("leak", "nothing", Level.LITTLE),
        ("part", "nothing", Level.LITTLE),
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
    assert judge(summarise(trials)[-1]).level is level


def test_where_the_control_failed_too_the_obfuscation_is_untested(trial: MakeTrial) -> None:
    control, row = summarise([trial(**NOTHING), trial(obfuscation="fp16", **NOTHING)])
    assert judge(control).level is Level.INCONCLUSIVE
    assert "fails even on the bare update, so the obfuscation is untested" in judge(row).sentence


def test_a_missing_control_is_said(trial: MakeTrial) -> None:
    for found in WHAT.values():
        (row,) = summarise([trial(obfuscation="fp16", **found)])
        assert any("no control" in caveat for caveat in judge(row).caveats)


def test_a_leak_needs_structure_and_not_only_colours(trial: MakeTrial) -> None:
    (row,) = summarise([trial(psnr=[22.0] * 8, ssim=[0.25] * 8)])
    assert judge(row).level is Level.PARTLY


def test_a_leak_is_judged_by_the_lower_end_of_the_interval(trial: MakeTrial) -> None:
    spread = [11.0 + LEAK_GAIN_DB - 4, 11.0 + LEAK_GAIN_DB - 4, 11.0 + LEAK_GAIN_DB - 4, 40.0]
    (row,) = summarise([trial(psnr=spread)])
    gain = row.scores["psnr"].gain
    assert gain is not None
    assert gain.mean > LEAK_GAIN_DB > gain.low
    assert judge(row).level is Level.PARTLY


def test_one_picture_that_came_back_is_not_little(trial: MakeTrial) -> None:
    one = trial(obfuscation="fp16", psnr=[30.0, *[8.0] * 7], ssim=[0.9, *[0.1] * 7])
    verdict = judge(summarise([trial(), one])[1])
    assert verdict.level is Level.PARTLY
    assert "1 of 8 came back" in verdict.sentence


def test_a_dark_copy_is_something_although_its_pixels_score_low(trial: MakeTrial) -> None:
    dark = trial(obfuscation="fp16", correlation=[0.7] * 8, **NOTHING)
    verdict = judge(summarise([trial(), dark])[1])
    assert verdict.level is Level.PARTLY
    assert any("Correlation with the originals is 0.70" in reason for reason in verdict.reasons)
    chance = trial(obfuscation="fp16", correlation=[0.2] * 8, **NOTHING)
    assert judge(summarise([trial(), chance])[1]).level is Level.LITTLE


def test_half_of_the_pictures_are_a_leak(trial: MakeTrial) -> None:
    half = trial(obfuscation="fp16", psnr=[30.0] * 4 + [8.0] * 4, ssim=[0.9] * 4 + [0.1] * 4)
    assert judge(summarise([trial(), half])[1]).level is Level.LEAKS


def test_if_every_run_diverged_its_failure_says_nothing(trial: MakeTrial) -> None:
    runs = [trial(obfuscation="fp16", seed=seed, stop=Stop.DIVERGED, **NOTHING) for seed in (0, 1)]
    verdict = judge(summarise([trial(), *runs])[1])
    assert verdict.level is Level.INCONCLUSIVE
    assert any("2 of 2 runs diverged" in caveat for caveat in verdict.caveats)


def test_one_diverged_run_is_mentioned_and_no_more(trial: MakeTrial) -> None:
    runs = [trial(obfuscation="fp16", seed=0, stop=Stop.DIVERGED, **LEAK), trial(obfuscation="fp16", seed=1, **LEAK)]
    verdict = judge(summarise([trial(), *runs])[1])
    assert verdict.level is Level.LEAKS
    assert any("1 of 2 runs diverged" in caveat for caveat in verdict.caveats)


def test_a_single_seed_and_few_pictures_are_said(trial: MakeTrial) -> None:
    few = " ".join(judge(summarise([trial(psnr=[25.0, 26.0])])[0]).caveats)
    assert "interval is across pictures" in few
    assert "Only 2 pictures" in few
    many = judge(summarise([trial(seed=0), trial(seed=1)])[0]).caveats
    assert many == ()


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_a_missing_score_is_said(trial: MakeTrial, metric: str) -> None:
    one = trial(psnr=[]) if metric == "psnr" else trial(psnr=[25.0] * 8, ssim=[])
    verdict = judge(summarise([one])[0])
    if metric == "psnr":
        assert verdict.level is Level.INCONCLUSIVE
        assert "missing" in verdict.sentence
    else:
        assert verdict.level is Level.LEAKS
        assert any("PSNR alone" in caveat for caveat in verdict.caveats)


def test_nothing_that_is_said_promises_privacy(trial: MakeTrial) -> None:
    said = [level.meaning for level in Level] + [level.value for level in Level] + list(NOT_PROVED)
    for control, one, two in itertools.product([*WHAT, None], WHAT, WHAT):
        trials = [trial(obfuscation="fp16", **WHAT[one]), trial(obfuscation="bf16", **WHAT[two])]
        trials += [trial(**WHAT[control])] if control else []
        rows = summarise(trials)
        said += [headline(rows), recommendation(rows)]
        for verdict in map(judge, rows):
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
        ([{}, {"obfuscation": "fp16", **NOTHING}], "Little was found behind the obfuscation that was tested"),
        ([{}, {"obfuscation": "fp16", **PART}], "Something of the pictures came back"),
        ([NOTHING, {"obfuscation": "fp16", **NOTHING}], "Inconclusive: the attack fails even on the bare update"),
        ([{"obfuscation": "fp16", **NOTHING}], "Inconclusive: the attack found little, and was never tried"),
        ([{"obfuscation": "fp16"}], "there is no run without it to compare with"),
        ([{}, {"obfuscation": "fp16", **LEAK}, {"obfuscation": "bf16", **NOTHING}], "through 1 of 2 obfuscations"),
        ([{}, {"obfuscation": "fp16"}, {"obfuscation": "bf16"}], "through all 2 obfuscations"),
    ],
)
def test_headline(trial: MakeTrial, trials: list[dict[str, object]], words: str) -> None:
    assert words in headline(summarise([trial(**settings) for settings in trials]))


def test_an_obfuscation_counts_once_however_many_scenes_it_was_tested_in(trial: MakeTrial) -> None:
    rows = summarise([trial(scene=scene, obfuscation=spec) for scene in "abc" for spec in ("none", "fp16", "bf16")])
    assert "through all 2 obfuscations" in headline(rows)


@pytest.mark.parametrize("scene", ["a", "b"])
def test_only_what_held_everywhere_is_recommended(trial: MakeTrial, scene: str) -> None:
    trials = [trial(scene=name, obfuscation=spec) for name in "ab" for spec in ("none", "fp16")]
    held = [trial(scene=name, obfuscation="bf16", **NOTHING) for name in "ab"]
    assert "Look next at `bf16`" in recommendation(summarise([*trials, *held]))
    broken = [trial(scene=n, obfuscation="bf16", **(LEAK if n == scene else NOTHING)) for n in "ab"]
    assert "Look next" not in recommendation(summarise([*trials, *broken]))


def test_nothing_is_recommended_on_few_pictures_or_a_weak_control(trial: MakeTrial) -> None:
    few = [trial(psnr=[26.0] * 4), trial(obfuscation="fp16", psnr=[11.2] * 4, ssim=[0.1] * 4)]
    weak = [trial(**PART), trial(obfuscation="fp16", **NOTHING)]
    assert recommendation(summarise(few)) == ""
    assert recommendation(summarise(weak)) == ""


def test_what_leaks_is_not_to_be_counted_on(trial: MakeTrial) -> None:
    assert recommendation(summarise([trial(), trial(obfuscation="fp16")])).startswith("Do not count `fp16`")
