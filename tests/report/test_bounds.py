"""The bound beside the attack, and what happens where the attack found more than theory allows."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import norm

from report.conftest import MakeTrial
from unveil.core.guarantees import PrivacyStatement
from unveil.report.bounds import ContradictionError, bound_of, refuse_contradictions, strength_of
from unveil.report.html import write_report
from unveil.report.pooling import summarise

N = 8
CHANCE = [0.005] * N


def stated(strength: float | None, **others: object) -> PrivacyStatement:
    facts = {"unit": "client", "adjacency": "replace", "sampling": "all", "rounds": 1, "releases": 1, "delta": 1e-5}
    return PrivacyStatement(**{**facts, "strength": strength, **others})  # type: ignore[arg-type]


def test_the_bound_is_the_mean_over_the_pictures(trial: MakeTrial) -> None:
    chance = [0.5, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01]
    (row,) = summarise([trial(found_first=[1.0] * 2 + [0.0] * 6, privacy=[stated(0.7)], chance=chance)])
    bound = bound_of(row)
    assert bound is not None
    assert bound.allowed == pytest.approx(sum(norm.sf(norm.isf(c) - 0.7) for c in chance) / N)
    assert bound.chance == pytest.approx(sum(chance) / N)
    assert bound.measured.mean == 0.25
    assert not bound.contradicts


def test_the_tightest_statement_counts(trial: MakeTrial) -> None:
    (row,) = summarise([trial(privacy=[stated(2.0, unit="example"), stated(0.5), stated(None)])])
    assert strength_of(row) == 0.5
    assert strength_of(summarise([trial(privacy=[stated(None)])])[0]) is None


def test_without_a_gallery_of_the_same_source_or_without_noise_nothing_is_compared(trial: MakeTrial) -> None:
    hits = [1.0] * N
    for made in (
        trial(privacy=[stated(0.5)], chance=CHANCE),
        trial(found_first=hits, privacy=[stated(0.5)]),
        trial(found_first=hits, chance=CHANCE),
        trial(found_first=hits, privacy=[stated(None)], chance=CHANCE),
        trial(found_first=hits, privacy=[stated(0.5)], chance=CHANCE[:3]),
    ):
        rows = summarise([made])
        assert bound_of(rows[0]) is None
        refuse_contradictions(rows)


@pytest.mark.parametrize(
    ("hits", "strength", "contradicts"),
    [
        (8, 0.1, True),  # without the noise that is claimed all come back
        (8, 1.0, True),
        (8, 3.0, False),  # so little noise allows it
        (5, 0.1, True),
        (1, 0.1, False),  # one of eight is luck: 4 in 100 at this bound
        (0, 0.1, False),
    ],
)
def test_more_than_theory_allows_is_an_error(trial: MakeTrial, hits: int, strength: float, contradicts: bool) -> None:
    found = [1.0] * hits + [0.0] * (N - hits)
    rows = summarise(
        [trial(obfuscation="dpsgd:clip=1,noise=10", found_first=found, privacy=[stated(strength)], chance=CHANCE)]
    )
    if not contradicts:
        refuse_contradictions(rows)
        return
    with pytest.raises(ContradictionError) as raised:
        refuse_contradictions(rows)
    message = str(raised.value)
    assert f"the attack rog found {hits / N:.0%} of the pictures of client demo first" in message
    assert "obfuscation dpsgd:clip=1,noise=10" in message
    assert "the noise is not what it is said to be" in message


def test_seeds_count_once_for_a_picture(trial: MakeTrial) -> None:
    # The same picture under other noise is no new draw of picture and decoys: thirty hits of one picture are one hit.
    made = [trial(seed=s, found_first=[1.0] + [0.0] * 7, privacy=[stated(0.1)], chance=CHANCE) for s in range(30)]
    refuse_contradictions(summarise(made))


def test_the_report_is_written_and_says_it_before_the_error(trial: MakeTrial, folder: Path) -> None:
    made = [
        trial(),
        trial(obfuscation="dpsgd:clip=1,noise=10", found_first=[1.0] * N, privacy=[stated(0.1)], chance=CHANCE),
    ]
    with pytest.raises(ContradictionError, match="found 100% of the pictures"):
        write_report(folder, made)
    assert "contradicted" in (folder / "report.html").read_text(encoding="utf-8")


def test_control_characters_of_a_results_folder_stay_out_of_the_message(trial: MakeTrial) -> None:
    made = trial(client="\x1b[2J", found_first=[1.0] * N, privacy=[stated(0.1)], chance=CHANCE)
    with pytest.raises(ContradictionError) as raised:
        refuse_contradictions(summarise([made]))
    assert "\x1b" not in str(raised.value)
