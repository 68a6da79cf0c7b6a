"""A tiny audit scores what it scored when it was recorded; `python tests/golden/record.py` records it anew."""

from __future__ import annotations

import json

import pytest

from golden.record import RECORDED, Scores, scores

KEPT: Scores = json.loads(RECORDED.read_text(encoding="utf-8"))

DECIBELS, SHARE = 0.1, 0.02
"""Processors differ in the last bit. Weights changed by a millionth move the PSNR by 0.035 dB and the other scores by
0.006 at most (`python tests/golden/record.py --shake 6`)."""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured() -> Scores:
    return scores()


def test_the_same_runs_are_kept(measured: Scores) -> None:
    assert {name: set(row) for name, row in measured.items()} == {name: set(row) for name, row in KEPT.items()}


@pytest.mark.parametrize("name", KEPT)
def test_scores_are_those_that_were_recorded(measured: Scores, name: str) -> None:
    for key, recorded in KEPT[name].items():
        tolerance = 0.0 if key == "bits" else DECIBELS if key.startswith("psnr") else SHARE
        assert measured[name][key] == pytest.approx(recorded, abs=tolerance), key
