import itertools
import math
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pytest

from instances import first_of_each
from unveil.core.records import Trial
from unveil.obfuscations import CATALOGUE
from unveil.report import summarise
from unveil.report.charts import FAMILY_NAMES, LONGEST_LINE, MARKERS, label_text, led_label, legend, spec_lines
from unveil.report.leakage_chart import LeakageChart, leakage_chart
from unveil.report.loss_chart import loss_chart
from unveil.report.rows import FAMILIES, OTHER, Row
from unveil.report.svg_layout import Box

MakeTrial = Callable[..., Trial]
SPECS = ("none", "qsgd:levels=4", "topk:density=0.1", "gaussian:relative=1", "topk:density=0.1+qsgd:levels=4")


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def leakage(rows: Sequence[Row]) -> LeakageChart:
    chart = leakage_chart(rows)
    assert chart is not None
    return chart


def classed(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if name in element.get("class", "").split()]


def test_leakage_has_one_titled_and_labelled_point_a_row(trial: MakeTrial) -> None:
    rows = summarise([trial(obfuscation=spec, wire_bits=10**n) for n, spec in enumerate(SPECS, 3)])
    root = parse(leakage(rows).svg)
    points = classed(root, "point")
    assert len(points) == len(SPECS)
    assert all(spec in (point.findtext("title") or "") for spec, point in zip(SPECS, points, strict=True))
    assert ["".join(label.itertext()) for label in classed(root, "label")] == list(SPECS)
    assert [point.get("class") for point in points] == [
        f"point family-{family}" for family in ("none", "quantise", "sparsify", "perturb", "pipeline")
    ]


def test_families_have_different_markers(trial: MakeTrial) -> None:
    outlines = [outline for _, outline, _ in legend(summarise([trial(obfuscation=spec) for spec in SPECS]))]
    assert len(set(outlines)) == len(SPECS)


def test_a_family_that_reports_do_not_know_is_drawn_as_other(trial: MakeTrial) -> None:
    """A user's own obfuscation names its family in a word of its own."""
    own = trial(obfuscation="own", family="a word of my own")
    rows = summarise([*(trial(obfuscation=spec, wire_bits=10**n) for n, spec in enumerate(SPECS, 3)), own])
    assert rows[-1].family == "other"
    assert classed(parse(leakage(rows).svg), "point")[-1].get("class") == "point family-other"
    assert [family for family, *_ in legend(rows)][-1] == "other"


def test_every_family_has_a_marker_and_a_name() -> None:
    known = {*FAMILIES, OTHER}
    assert set(MARKERS) == set(FAMILY_NAMES) == known
    assert {cls.family for cls in CATALOGUE.values()} <= known


def test_higher_psnr_is_higher_and_fewer_bits_are_further_left(trial: MakeTrial) -> None:
    rows = summarise([trial(wire_bits=10**7), trial(obfuscation="fp16", psnr=[15.0] * 8, wire_bits=10**5)])
    places = []
    for point in classed(parse(leakage(rows).svg), "marker"):
        x, y = point.attrib["transform"].removeprefix("translate(").removesuffix(")").split()
        places.append((float(x), float(y)))
    (x_none, y_none), (x_half, y_half) = places
    assert x_half < x_none
    assert y_half > y_none


def test_the_blind_guess_is_a_line_with_its_value(trial: MakeTrial) -> None:
    (floor,) = classed(parse(leakage(summarise([trial(blind=11.0)])).svg), "floor")
    assert floor.findtext("text") == "blind guess 11.0 dB"


def test_one_row_without_spread_can_be_drawn(trial: MakeTrial) -> None:
    root = parse(leakage(summarise([trial(psnr=[20.0], blind=20.0)])).svg)
    assert len(classed(root, "point")) == 1


def test_loss_has_one_curve_a_run_and_one_label_an_obfuscation(trial: MakeTrial) -> None:
    rows = summarise([trial(seed=seed, obfuscation=spec) for seed in (0, 1) for spec in SPECS])
    root = parse(loss_chart(rows))
    assert len(classed(root, "curve")) == 2 * len(SPECS)
    assert len(classed(root, "label")) == len(SPECS)


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_what_cannot_be_drawn_leaves_a_gap(trial: MakeTrial, hole: float) -> None:
    (curve,) = classed(parse(loss_chart(summarise([trial(losses=[4.0, 3.0, hole, 2.0, 1.0])]))), "curve")
    path = curve.attrib["d"]
    assert path.count("M") == 2
    assert path.count("L") == 2
    assert "nan" not in path
    assert "inf" not in path


@pytest.mark.parametrize("losses", [[], [math.nan, math.inf], [-1.0, 0.0]])
def test_a_curve_of_nothing_is_no_chart(trial: MakeTrial, losses: list[float]) -> None:
    assert loss_chart(summarise([trial(losses=losses)])) == ""


@pytest.mark.parametrize("losses", [[3.0], [3.0, 3.0], [1e-300, 1e300], [1e-308, 1.0, 1.7e308]])
def test_odd_curves_can_be_drawn(trial: MakeTrial, losses: list[float]) -> None:
    assert len(classed(parse(loss_chart(summarise([trial(losses=losses)]))), "curve")) == 1


def test_no_rows_are_no_charts() -> None:
    assert leakage_chart([]) is None
    assert loss_chart([]) == ""


def test_names_are_escaped(trial: MakeTrial) -> None:
    rows = summarise([trial(obfuscation="<script>&\"'")])
    for chart in (leakage(rows).svg, loss_chart(rows)):
        assert "<script" not in chart
        assert "<script>&\"'" in "".join(parse(chart).itertext())


def test_more_lines_than_colours_differ_by_their_dash(trial: MakeTrial) -> None:
    rows = summarise([trial(obfuscation=f"qsgd:levels={n}") for n in range(2, 12)])
    curves = classed(parse(loss_chart(rows)), "curve")
    assert len({curve.get("class") for curve in curves}) == 10


@pytest.mark.parametrize("number", first_of_each([13, 24, 48]))
def test_many_rows_have_numbers_that_a_key_explains(trial: MakeTrial, number: int) -> None:
    names = [f"topk:density=0.{place:02d}" for place in range(1, number + 1)]
    rows = summarise([trial(obfuscation=name, wire_bits=10**5 + 10**4 * place) for place, name in enumerate(names)])
    chart = leakage(rows)
    assert list(chart.key) == names
    assert ["".join(label.itertext()) for label in classed(parse(chart.svg), "label")] == [
        str(place) for place in range(1, number + 1)
    ]


@pytest.mark.slow
def test_more_rows_than_a_reader_can_tell_apart_have_markers_alone(trial: MakeTrial) -> None:
    names = [f"topk:density=0.{place:03d}" for place in range(1, 102)]
    chart = leakage(summarise([trial(obfuscation=name) for name in names]))
    assert (chart.key, chart.labelled) == ([], False)
    root = parse(chart.svg)
    assert not classed(root, "label")
    tips = ["".join(mark.itertext()).split(": ")[0] for mark in classed(root, "point")]
    assert tips == [f"topk:density=0.{place:03d}" for place in range(1, 102)]


def test_names_that_would_cover_one_another_are_numbers(trial: MakeTrial) -> None:
    names = [f"mypackage.module:Class:a_long_setting={place}" for place in range(10)]
    assert list(leakage(summarise([trial(obfuscation=name) for name in names])).key) == names
    assert leakage(summarise([trial(obfuscation=name) for name in ("none", "fp16")])).key == []


@pytest.mark.parametrize("number", [4, 12, 24])
def test_labels_of_losses_stay_inside_and_apart(trial: MakeTrial, number: int) -> None:
    names = [
        "fp16",
        *(f"topk:density=0.{i:02d}+qsgd:levels=16,norm=max+mypackage.mine:Class:x=1" for i in range(1, number)),
    ]
    root = parse(loss_chart(summarise([trial(obfuscation=name) for name in names])))
    height = float(root.attrib["viewBox"].split()[3])
    lines = sorted(float(e.attrib["y"]) for e in root.iter() if e.tag.endswith("tspan"))
    assert len(lines) >= 1 + 2 * (number - 1)
    assert all(after - before > 10 for before, after in itertools.pairwise(lines))
    assert min(lines) > 8
    assert max(lines) < height - 40


def test_a_long_spec_is_broken_after_punctuation() -> None:
    text = "topk:density=0.05+mypackage.module.of.mine:TheClass:a_setting=0.001,another=true"
    lines = spec_lines(text)
    assert "".join(lines) == text
    assert lines[0] == "topk:density=0.05+"
    assert all(len(line) <= LONGEST_LINE for line in lines)
    assert all(line[-1] in ":,.=+" for line in lines[:-1])
    assert spec_lines("x" * 80) == ["x" * 36, "x" * 36, "x" * 8]


def test_a_label_away_from_its_marker_is_joined_to_its_edge() -> None:
    near, far = Box(20, -5, 60, 5), Box(50, -5, 90, 5)
    assert led_label(["a"], near, (0, 0), 12.0) == label_text(["a"], near)
    assert led_label(["a"], far, (0, 0), 12.0) == (
        '<path class="leader" d="M12.0 0.0L50.0 0.0"/>' + label_text(["a"], far)
    )
