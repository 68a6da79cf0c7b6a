from collections.abc import Callable
from xml.etree import ElementTree

from unveil.core.records import Trial
from unveil.report import summarise
from unveil.report.threat_models import threat_model_charts

MakeTrial = Callable[..., Trial]
THREAT_MODELS = ("everything known", "labels unknown", "obfuscation+labels+training unknown")


def test_one_threat_model_has_no_chart(trial: MakeTrial) -> None:
    trials = [trial(), trial(obfuscation="fp16"), trial(attack="dlg", threat_model=THREAT_MODELS[1])]
    assert threat_model_charts(summarise(trials)) == []


def test_a_line_an_obfuscation_and_a_point_an_attacker(trial: MakeTrial) -> None:
    trials = [
        trial(obfuscation=name, threat_model=threat_model, psnr=[20.0 - 3 * height, 22.0, 23.0])
        for height, threat_model in enumerate(THREAT_MODELS)
        for name in ("none", "qsgd:levels=4")
    ]
    (chart,) = threat_model_charts(summarise(trials))
    assert (chart.client, chart.training, chart.attack) == ("demo", "fedsgd", "rog")
    root = ElementTree.fromstring(chart.svg)
    curves = [e.get("d", "") for e in root.iter() if e.get("class") == "curve"]
    assert len(curves) == 2
    heights = [[float(point.split()[1]) for point in d[1:].split("L")] for d in curves]
    assert all(down == sorted(down) and len(set(down)) == 3 for down in heights)  # less knowledge stands lower
    tips = [e.findtext("title") or "" for e in root.iter() if e.get("class") == "point"]
    assert len(tips) == 6
    assert "qsgd:levels=4, labels unknown: 20.7 dB" in " ".join(tips)
    words = " ".join(root.itertext())
    assert "everything known" in words
    assert "obfuscation+labels+training" in words


def test_a_threat_model_that_was_not_run_for_one_obfuscation_leaves_no_point(trial: MakeTrial) -> None:
    trials = [
        trial(threat_model=THREAT_MODELS[0]),
        trial(threat_model=THREAT_MODELS[1]),
        trial(obfuscation="fp16", threat_model=THREAT_MODELS[0]),
    ]
    (chart,) = threat_model_charts(summarise(trials))
    assert chart.svg.count('class="point"') == 3
