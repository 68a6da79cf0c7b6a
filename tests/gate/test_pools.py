"""Which rows are judged, and which together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gate.made import LEAK, NOTHING, beside_baseline, client_table, made, settings_of
from unveil.core.records import ATTACK, Plausibility
from unveil.gate.pools import Pool, finds_by, mean_of, pools, unscored, worst_of
from unveil.metrics import facts_of
from unveil.report import summarise
from unveil.report.levels import Level


def found(*trials: Any, chosen: tuple[str, ...] = (), baseline: Any = LEAK, **settings: Any) -> list[Pool]:
    everything = beside_baseline(*trials, baseline=baseline)
    return pools(summarise(everything), settings_of(everything, **settings), chosen)


def test_every_row_but_the_baseline_is_judged() -> None:
    trials = [made("fp16"), made("sign"), made("fp16", attack="idlg"), made("fp16", threat_model="labels unknown")]
    assert {(pool.obfuscation, pool.attacker) for pool in found(*trials)} == {
        ("fp16", "rog, everything known"),
        ("sign", "rog, everything known"),
        ("fp16", "idlg, everything known"),
        ("fp16", "rog, labels unknown"),
    }


def test_batches_of_one_client_are_judged_together() -> None:
    trials = [made(client=f"hospital {number}") for number in (1, 2, 3, 4)]
    (pool,) = found(*trials)
    assert [row.client for row in pool.rows] == ["hospital 1", "hospital 2", "hospital 3", "hospital 4"]
    assert pool.clients == "hospital 1, hospital 2 and 2 others"
    assert pool.pictures == 32
    assert pool.name == "topk:density=0.05, hospital 1, hospital 2 and 2 others, fedsgd, rog, everything known"


def test_clients_that_differ_in_more_than_pictures_are_judged_apart() -> None:
    trials = [made(client=name) for name in ("a", "b", "c", "d")]
    tables = [
        client_table("a"),
        client_table("b"),
        client_table("c", weights="other"),
        client_table("d", images="elsewhere"),
    ]
    assert [pool.clients for pool in found(*trials, clients=tables)] == ["a and b", "c", "d"]


def test_clients_of_which_the_folder_says_nothing_are_judged_apart() -> None:
    trials = [made(client=name) for name in ("a", "b")]
    for nothing in ([], "damaged", [3, {"name": 4}]):
        assert [pool.clients for pool in found(*trials, clients=nothing)] == ["a", "b"]


def test_the_pictures_of_an_enhancer_are_judged_beside_the_attacks_own() -> None:
    assert [pool.attacker for pool in found(made(enhanced=LEAK))] == [
        "rog, everything known",
        "rog then faithful, everything known",
    ]


def test_one_obfuscation_is_chosen_and_the_baseline_only_by_name() -> None:
    trials = [made("fp16"), made("sign")]
    assert [pool.obfuscation for pool in found(*trials, chosen=("sign",))] == ["sign"]
    assert [pool.obfuscation for pool in found(*trials, chosen=("none", "fp16"))] == ["none", "fp16"]


def test_a_recorded_update_is_judged_although_nothing_obfuscates_it() -> None:
    known = Plausibility(explained=0.9, control=0.1, rehearsal={}, rehearsal_blind={})
    recorded = made("none", plausibility=known)
    (pool,) = pools(summarise([recorded]), {"recordings": [{"name": "hospital"}]})
    assert pool.obfuscation == "none"


def test_rows_of_an_attack_that_finds_nothing_are_not_conclusive() -> None:
    (pool,) = found(made(scores=NOTHING), baseline=NOTHING)
    assert pool.conclusive(facts_of("psnr")) == ()
    (pool,) = found(made(scores=NOTHING))
    assert pool.conclusive(facts_of("psnr")) == pool.rows


@pytest.mark.parametrize(("hits", "works"), [(4, False), (5, True)])  # p-values 2^-4 and 2^-5
def test_an_attack_works_if_the_share_itself_says_so_over_the_bare_updates_of_all_batches(
    hits: int, works: bool
) -> None:
    trials = []
    for client, here in (("a 1", hits - 2), ("a 2", 2)):
        bare = {**NOTHING, "reid_top1": [1.0] * here + [0.0] * (8 - here)}
        trials += [made("none", bare, client=client), made("fp16", {**NOTHING, "reid_top1": [0.0] * 8}, client=client)]
    rows = tuple(row for row in summarise(trials) if row.obfuscation == "fp16")
    assert all(row.verdict.level is Level.INCONCLUSIVE for row in rows)
    share = facts_of("reid_top1")
    assert bool(Pool(rows=rows, together=True).conclusive(share)) is works
    assert Pool(rows=rows).conclusive(share) == ()  # batches that are judged alone are too small for it
    # every picture is a little better than a grey one, as anything that looks like a photograph is
    assert Pool(rows=rows, together=True).conclusive(facts_of("psnr")) == ()


def test_other_metrics_count_beside_another_client_too() -> None:
    controls, trials = {"another client": {"psnr": [11.0] * 8}}, []
    for client in ("a 1", "a 2"):
        trial = made("none", NOTHING, client=client)
        outcome = replace(trial.outcomes[ATTACK], controls=controls)
        trials.append(replace(trial, outcomes={ATTACK: outcome}))
    assert finds_by(facts_of("psnr"), summarise(trials))


def test_the_worst_picture_counts_under_its_most_leaking_seed_and_the_mean_over_the_seeds() -> None:
    one = {"psnr": [20.0, 10.0], "ssim": [0.5, 0.5], "lpips": [0.2, 0.6]}
    other = {"psnr": [10.0, 14.0], "ssim": [0.5, 0.5], "lpips": [0.4, 0.3]}
    (pool,) = found(made(scores=one), made(scores=other, seed=1), baseline=one)
    assert worst_of(pool.rows, facts_of("psnr")) == 20.0
    assert worst_of(pool.rows, facts_of("lpips")) == 0.2
    mean = mean_of(pool.rows, facts_of("psnr"))
    assert mean is not None
    assert mean.mean == 13.5
    assert mean.high == 15.0  # of the pictures' means over the seeds, 15 and 12
    assert mean == pool.rows[0].scores["psnr"].mean


def test_a_metric_that_no_row_has_has_no_value() -> None:
    (pool,) = found(made())
    assert mean_of(pool.rows, facts_of("lpips")) is None
    assert worst_of(pool.rows, facts_of("lpips")) is None


def test_scores_that_are_no_numbers_are_counted_over_pictures_and_seeds() -> None:
    broken = {"psnr": [float("nan"), 20.0, float("nan")], "ssim": [0.5] * 3}
    whole = {"psnr": [20.0] * 3, "ssim": [0.5] * 3}
    (pool,) = found(made(scores=broken), made(scores=whole, seed=1), baseline=whole)
    assert unscored(pool.rows, "psnr") == 2
    assert unscored(pool.rows, "ssim") == 0
    assert unscored(pool.rows, "lpips") == 6
