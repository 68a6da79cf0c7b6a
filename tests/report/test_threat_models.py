from collections.abc import Callable
from xml.etree import ElementTree

from unveil.core.records import Trial
from unveil.report import summarise
from unveil.report.threat_models import ladders

MakeTrial = Callable[..., Trial]
RUNGS = ("everything known", "labels unknown", "obfuscation+labels+training unknown")


def test_one_knowledge_is_no_ladder(trial: MakeTrial) -> None:
    assert ladders(summarise([trial(), trial(obfuscation="fp16"), trial(attack="dlg", threat_model=RUNGS[1])])) == []


def test_a_line_an_obfuscation_and_a_point_an_attacker(trial: MakeTrial) -> None:
    trials = [
        trial(obfuscation=name, threat_model=rung, psnr=[20.0 - 3 * height, 22.0, 23.0])
        for height, rung in enumerate(RUNGS)
        for name in ("none", "qsgd:levels=4")
    ]
    (ladder,) = ladders(summarise(trials))
    assert (ladder.client, ladder.training, ladder.attack) == ("demo", "fedsgd", "rog")
    root = ElementTree.fromstring(ladder.chart)
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


def test_a_rung_that_was_not_run_for_one_obfuscation_leaves_no_point(trial: MakeTrial) -> None:
    trials = [
        trial(threat_model=RUNGS[0]),
        trial(threat_model=RUNGS[1]),
        trial(obfuscation="fp16", threat_model=RUNGS[0]),
    ]
    (ladder,) = ladders(summarise(trials))
    assert ladder.chart.count('class="point"') == 3
