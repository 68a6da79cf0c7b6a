from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from instances import first_of_each
from unveil.core.records import Trial
from unveil.report import summarise
from unveil.report.threat_models import threat_model_charts


def place_of(point: ElementTree.Element) -> tuple[float, float]:
    """Where a mark stands, across and down, in pixels."""
    (marker,) = [e for e in point.iter() if e.get("class") == "marker"]
    across, down = marker.attrib["transform"].removeprefix("translate(").partition(")")[0].split()
    return float(across), float(down)


MakeTrial = Callable[..., Trial]
THREAT_MODELS = ("everything known", "labels unknown", "obfuscation+labels+training unknown")


def test_one_threat_model_has_no_chart(trial: MakeTrial) -> None:
    trials = [trial(), trial(obfuscation="fp16"), trial(attack="dlg", threat_model=THREAT_MODELS[1])]
    assert threat_model_charts(summarise(trials)) == []


def test_a_row_an_obfuscation_and_a_mark_an_attacker(trial: MakeTrial) -> None:
    trials = [
        trial(obfuscation=name, threat_model=threat_model, psnr=[20.0 - 3 * height, 22.0, 23.0])
        for height, threat_model in enumerate(THREAT_MODELS)
        for name in ("none", "qsgd:levels=4")
    ]
    (chart,) = threat_model_charts(summarise(trials))
    assert (chart.client, chart.training, chart.attack) == ("demo", "fedsgd", "rog")
    root = ElementTree.fromstring(chart.svg)
    assert not [e for e in root.iter() if e.get("class") == "curve"]  # attackers have no order
    points = [e for e in root.iter() if (e.get("class") or "").startswith("point")]
    places = [place_of(e) for e in points]
    for first in (0, 3):
        across = [across for across, _ in places[first : first + 3]]
        assert across == sorted(across, reverse=True)  # less knowledge stands further left
    assert max(down for _, down in places[:3]) < min(down for _, down in places[3:])
    assert [name for *_, name in chart.legend] == list(THREAT_MODELS)
    assert len({(classes, outline) for classes, outline, _ in chart.legend}) == 3
    tips = [e.findtext("title") or "" for e in points]
    assert len(tips) == 6
    assert "qsgd:levels=4, labels unknown: 20.7 dB" in " ".join(tips)


@pytest.mark.parametrize("number", first_of_each([4, 12, 24]))
def test_a_row_for_each_of_many_obfuscations_stays_inside_and_apart(trial: MakeTrial, number: int) -> None:
    long = [
        f"topk:density=0.{i:02d}+qsgd:levels=16,norm=max+mypackage.module.of.mine:Class:key=1" for i in range(number)
    ]
    trials = [trial(obfuscation=name, threat_model=model) for name in long for model in THREAT_MODELS]
    (chart,) = threat_model_charts(summarise(trials))
    root = ElementTree.fromstring(chart.svg)
    height = float(root.attrib["viewBox"].split()[3])
    lines = [float(e.attrib["y"]) for e in root.iter() if e.tag.endswith("tspan")]
    assert len(lines) >= 3 * number
    assert all(after - before > 10 for before, after in pairwise(lines))
    assert max(lines) < height - 40


def test_a_threat_model_that_was_not_run_for_one_obfuscation_leaves_no_point(trial: MakeTrial) -> None:
    trials = [
        trial(threat_model=THREAT_MODELS[0]),
        trial(threat_model=THREAT_MODELS[1]),
        trial(obfuscation="fp16", threat_model=THREAT_MODELS[0]),
    ]
    (chart,) = threat_model_charts(summarise(trials))
    assert chart.svg.count('class="point ') == 3
