"""What a reader is told of each metric, held against the page that explains them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from unveil.core.metric import Metric, MetricFacts
from unveil.metrics import CATALOGUE, FACTS, facts_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def directions() -> dict[str, str]:
    """Metric -> where leakage lies, from the rows of the page's table."""
    rows = re.findall(r"^\| (`[^|]*) \| (high|low) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: leak for names, leak in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_page_and_the_records_agree_where_leakage_lies() -> None:
    assert directions() == {name: facts.leak for name, facts in FACTS.items()}


@pytest.mark.parametrize("name", FACTS)
def test_readers_are_told_what_a_metric_is(name: str) -> None:
    facts = FACTS[name]
    assert facts.title
    assert facts.description
    assert facts.digits in (1, 2, 3)


def test_shares_and_ranks_are_told_from_metrics() -> None:
    assert {name for name, facts in FACTS.items() if facts.is_rate} == {
        *("same_top1", "same_top5", "true_class"),
        *("reid_top1", "reid_top5"),
    }


def test_a_heading_names_the_unit() -> None:
    assert FACTS["psnr"].heading == "PSNR, dB"
    assert FACTS["ssim"].heading == "SSIM"
    assert (FACTS["psnr"].arrow, FACTS["lpips"].arrow) == ("↑", "↓")


def test_a_metric_from_elsewhere_goes_under_its_key() -> None:
    assert facts_of("theirs").heading == "theirs"
    assert "not one of unveil's own" in facts_of("theirs").description
    assert facts_of("psnr") is CATALOGUE["psnr"]


def test_facts_become_a_metric() -> None:
    facts = MetricFacts(name="darkness", leak="low", unit="%")
    metric = facts.scored(lambda originals, rebuilt: (originals - rebuilt).flatten(1).mean(1))
    assert isinstance(metric, Metric)
    assert (metric.name, metric.heading, metric.arrow) == ("darkness", "darkness, %", "↓")
    assert metric.score(torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)).tolist() == [1.0, 1.0]
