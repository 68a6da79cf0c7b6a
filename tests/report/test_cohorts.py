from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from unveil.core.records import Trial
from unveil.report import summarise
from unveil.report.cohorts import cohort_charts

MakeTrial = Callable[..., Trial]


def of_cohort(trial: Trial, clients: int | str) -> Trial:
    """The trial of a cohort, named as an audit file with a list of numbers names it."""
    name = trial.settings["client"]
    settings = {**trial.settings, "client": f"{name} (cohort {clients})"}
    return replace(trial, cohort_of=name, settings=settings if clients == 1 else {**settings, "cohort": str(clients)})


def test_a_line_for_each_size_and_a_mark_for_each_obfuscation(trial: MakeTrial) -> None:
    trials = [
        of_cohort(trial(obfuscation=name, psnr=[30.0 - clients] * 2 * clients), clients)
        for clients in (1, 8, 2)
        for name in ("none", "sign")
    ]
    (chart,) = cohort_charts(summarise(trials))
    assert (chart.client, chart.training, chart.attack, chart.threat_model) == (
        "demo",
        "fedsgd",
        "rog",
        "everything known",
    )
    assert [name for *_, name in chart.legend] == ["none", "sign"]
    root = ElementTree.fromstring(chart.svg)
    lines = [element.text for element in root.iter() if element.tag.endswith("tspan")]
    assert lines == ["1 client, 2 pictures", "2 clients, 4 pictures", "8 clients, 16 pictures"]
    tips = [e.findtext("title") or "" for e in root.iter() if (e.get("class") or "").startswith("point")]
    assert len(tips) == 6
    assert "8 clients, 16 pictures, sign: 22.0 dB" in " ".join(tips)


def test_one_size_has_no_chart(trial: MakeTrial) -> None:
    trials = [trial(), of_cohort(trial(attack="dlg"), 4), of_cohort(trial(training="fedavg:steps=2,lr=1"), 2)]
    assert cohort_charts(summarise(trials)) == []


def test_batches_have_a_chart_each(trial: MakeTrial) -> None:
    trials = [
        replace(
            made, cohort_of=f"demo {batch}", settings={**made.settings, "client": f"{made.settings['client']} {batch}"}
        )
        for batch in (1, 2)
        for made in (of_cohort(trial(), clients) for clients in (1, 2))
    ]
    assert [chart.client for chart in cohort_charts(summarise(trials))] == ["demo 1", "demo 2"]


@pytest.mark.parametrize("written", ["", "0", "-3", "many", "٣", "9" * 5000])
def test_a_number_of_clients_that_is_none_counts_as_one(written: str, trial: MakeTrial) -> None:
    made = trial()
    (row,) = summarise([replace(made, settings={**made.settings, "cohort": written})])
    assert row.cohort == 1
