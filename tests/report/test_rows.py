import dataclasses
import math
from collections.abc import Callable

import pytest

from fakes import with_attack
from unveil.core.errors import UsageError
from unveil.core.records import Trial
from unveil.report import summarise


def test_seeds_of_one_setting_become_one_row(trial: Callable[..., Trial]) -> None:
    (row,) = summarise([trial(seed=3, psnr=[20.0, 30.0]), trial(seed=5, psnr=[22.0, 32.0])])
    assert row.seeds == (3, 5)
    assert row.scores["psnr"].by_picture == {0: 21.0, 1: 31.0}
    assert row.scores["psnr"].mean.mean == pytest.approx(26.0)
    assert row.scores["psnr"].blind == pytest.approx(11.0)
    assert row.compression == pytest.approx(8.0)


def test_repeating_a_seed_does_not_narrow_the_interval(trial: Callable[..., Trial]) -> None:
    (once,) = summarise([trial()])
    (often,) = summarise([trial(seed=seed) for seed in range(20)])
    assert often.scores["psnr"].mean == once.scores["psnr"].mean


def test_psnr_is_the_mean_of_decibels_not_of_errors(trial: Callable[..., Trial]) -> None:
    (row,) = summarise([trial(psnr=[10.0, 40.0])])
    assert row.scores["psnr"].mean.mean == pytest.approx(25.0)  # pooled over pixels it would be 13


def test_the_baseline_comes_first_and_belongs_to_its_own_section(trial: Callable[..., Trial]) -> None:
    rows = summarise(
        [
            trial(obfuscation="fp16", psnr=[20.0] * 4),
            trial(psnr=[24.0] * 4),
            trial(obfuscation="fp16", client="other"),
        ]
    )
    assert [(row.client, row.obfuscation) for row in rows] == [("demo", "none"), ("demo", "fp16"), ("other", "fp16")]
    assert rows[1].baseline is rows[0]
    assert rows[1].cost is not None
    assert rows[1].cost.mean == pytest.approx(4.0)
    assert rows[2].baseline is None


def test_a_baseline_of_another_attack_is_no_baseline(trial: Callable[..., Trial]) -> None:
    rows = summarise([trial(attack="dlg"), trial(obfuscation="fp16", attack="rog")])
    assert rows[1].baseline is None


@pytest.mark.parametrize(
    ("spec", "family"),
    [
        ("none", "none"),
        ("qsgd:levels=4", "quantise"),
        ("topk:density=0.1", "sparsify"),
        ("gaussian:relative=1", "perturb"),
        ("topk:density=0.1+qsgd:levels=4", "pipeline"),
        ("<script>", "other"),
    ],
)
def test_family(trial: Callable[..., Trial], spec: str, family: str) -> None:
    assert summarise([trial(obfuscation=spec)])[0].family == family


def test_one_exact_picture_does_not_make_the_mean_infinite(trial: Callable[..., Trial]) -> None:
    (row,) = summarise([trial(psnr=[math.inf, 20.0])])
    assert row.scores["psnr"].mean.mean == pytest.approx((58.92 + 20) / 2, abs=0.01)


def test_nan_scores_are_left_out_and_said(trial: Callable[..., Trial]) -> None:
    (row,) = summarise([trial(psnr=[math.nan, 20.0])])
    assert row.scores["psnr"].by_picture == {1: 20.0}
    assert row.least is not None
    assert row.least.position == 1
    assert any("NaN" in note for note in row.notes)


def test_the_most_and_the_least_leaked_picture_know_their_seed(trial: Callable[..., Trial]) -> None:
    (row,) = summarise([trial(seed=0, psnr=[20.0, 21.0]), trial(seed=1, psnr=[19.0, 25.0])])
    assert row.most is not None
    assert row.least is not None
    assert (row.most.position, row.most.seed, row.most.psnr) == (1, 1, 25.0)
    assert (row.least.position, row.least.seed, row.least.psnr) == (0, 1, 19.0)


def test_batches_of_different_sizes_under_one_name_are_refused(trial: Callable[..., Trial]) -> None:
    with pytest.raises(UsageError, match=r"different sizes \(2, 3\); give each"):
        summarise([trial(psnr=[20.0] * 2), trial(seed=1, psnr=[20.0] * 3)])


def test_no_trials_are_no_rows() -> None:
    assert summarise([]) == []


def test_shares_have_a_wilson_interval_and_a_low_measures_gain_is_turned_round(trial: Callable[..., Trial]) -> None:
    from unveil.report.statistics import wilson

    plain = trial(psnr=[20.0] * 4)
    scores = {**plain.scores, "reid_top1": [1.0, 1.0, 0.0, 1.0], "lpips": [0.2, 0.3, 0.2, 0.3]}
    blind = {**plain.blind, "reid_top1": [0.0] * 4, "lpips": [0.7] * 4}
    (row,) = summarise([with_attack(dataclasses.replace(plain, blind=blind), scores=scores)])
    assert row.scores["reid_top1"].mean == wilson(3, 4)
    assert row.scores["lpips"].gain is not None
    assert row.scores["lpips"].gain.mean == pytest.approx(0.45)
    assert row.first[2].scores["reid_top1"] == 0.0
