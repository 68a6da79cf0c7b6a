"""The chart of several rounds of one client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

from unveil.core.records import Trial
from unveil.report import summarise
from unveil.report.rounds import rounds_charts

MakeTrial = Callable[..., Trial]


def of_rounds(trial: Trial, rounds: int) -> Trial:
    """The trial of several rounds, named as an audit file with a list of numbers names it."""
    settings = {**trial.settings, "client": f"demo ({rounds} rounds)"}
    return replace(trial, rounds_of="demo", settings=settings if rounds == 1 else {**settings, "rounds": str(rounds)})


def test_a_line_for_each_number_and_a_mark_for_each_obfuscation(trial: MakeTrial) -> None:
    trials = [
        of_rounds(trial(obfuscation=name, psnr=[20.0 + rounds] * 2), rounds)
        for rounds in (3, 1)
        for name in ("none", "sign")
    ]
    (chart,) = rounds_charts(summarise(trials))
    assert (chart.client, [name for *_, name in chart.legend]) == ("demo", ["none", "sign"])
    root = ElementTree.fromstring(chart.svg)
    assert [e.text for e in root.iter() if e.tag.endswith("tspan")] == ["1 round", "3 rounds"]
    tips = [e.findtext("title") or "" for e in root.iter() if (e.get("class") or "").startswith("point")]
    assert "3 rounds, sign: 23.0 dB" in " ".join(tips)


def test_one_number_of_rounds_has_no_chart(trial: MakeTrial) -> None:
    assert rounds_charts(summarise([trial(), of_rounds(trial(attack="dlg"), 3)])) == []
