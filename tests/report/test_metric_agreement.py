"""Agreement of the metrics, and the curves of the families, on results whose answer is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scipy.stats import kendalltau

from fakes import with_attack
from unveil.core.records import Trial
from unveil.report import summarise
from unveil.report.html import render
from unveil.report.metric_agreement import agreement
from unveil.report.rate_leakage import points, rate_leakage
from unveil.report.statistics import kendall_tau

MakeTrial = Callable[..., Trial]
N = 8
SPECS = ("none", "qsgd:levels=16", "qsgd:levels=2", "topk:density=0.05", "topk:density=0.01")


def scored(trial: Trial, control: Mapping[str, list[float]] | None = None, **scores: list[float]) -> Trial:
    """A trial with more scores, and a control that scores nothing unless said otherwise."""
    nothing = {name: [0.0] * N for name in (*trial.scores, *scores)} | {"psnr": [11.0] * N, "lpips": [0.9] * N}
    return with_attack(
        replace(trial, blind={**trial.blind, **{name: nothing[name] for name in scores}}),
        scores={**trial.scores, **scores},
        controls={"another client": {**nothing, **(control or {})}},
    )


def study(trial: MakeTrial, *, found: list[float], by_control: list[float] | None = None) -> list[Trial]:
    """Five obfuscations, each 4 dB worse than the one before; LPIPS and SSIM rank exactly as PSNR does."""
    trials = []
    for place, spec in enumerate(SPECS):
        psnr = [26.0 - 4 * place + 0.3 * i for i in range(N)]
        one = trial(obfuscation=spec, psnr=psnr, ssim=[p / 40 for p in psnr], wire_bits=4_000_000 // 4**place)
        control = {"reid_top1": by_control or [0.0] * N}
        trials.append(scored(one, control, lpips=[1 - p / 30 for p in psnr], reid_top1=found, same_top1=[0.0] * N))
    return trials


def test_measures_that_rank_alike_have_tau_one_whatever_their_direction(trial: MakeTrial) -> None:
    found = agreement(summarise(study(trial, found=[1.0] * N)))
    assert found is not None
    assert found.pictures == len(SPECS) * N
    assert found.names == ("psnr", "ssim", "lpips")
    for pair in found.pairs:
        assert pair.overall.mean == pytest.approx(1)
        assert pair.within == pytest.approx(1)
    assert found.pair("lpips", "psnr") is found.pair("psnr", "lpips")


def test_strength_makes_measures_agree_that_rank_the_pictures_of_a_batch_in_opposite_order(trial: MakeTrial) -> None:
    trials = []
    for place, spec in enumerate(SPECS):
        psnr = [26.0 - 4 * place + 0.3 * i for i in range(N)]
        reverse = [1 - (p - 0.6 * i) / 30 for i, p in enumerate(psnr)]
        trials.append(scored(trial(obfuscation=spec, psnr=psnr, ssim=[p / 40 for p in psnr]), lpips=reverse))
    found = agreement(summarise(trials))
    assert found is not None
    pair = found.pair("psnr", "lpips")
    assert pair is not None
    assert pair.within == pytest.approx(-1)
    assert pair.overall.mean > 0.4
    assert pair.overall.low <= pair.overall.mean <= pair.overall.high


def test_a_picture_found_in_the_gallery_behind_safe_pixels_is_overlooked(trial: MakeTrial) -> None:
    first = [1.0, 0, 0, 0, 0, 0, 0, 0]
    found = agreement(summarise(study(trial, found=first)))
    assert found is not None
    by_name = {line.obfuscation: line for line in found.hidden}
    assert by_name["none"].safe == 0  # 26 dB where the control has 11: pixels say it themselves
    assert by_name["none"].found == {"identity": 0, "meaning": 0}
    assert by_name["none"].missed == {"identity": N - 1, "meaning": N}
    last = by_name["topk:density=0.01"]
    assert (last.safe, last.scored, last.found["identity"], last.chance["identity"]) == (N, N, 1, 0)
    assert last.missed == {"identity": 0, "meaning": 0}
    assert all(leak.picture.position == 0 and leak.leaked == ("identity",) for leak in found.overlooked)


def test_what_the_control_finds_too_does_not_count_and_what_it_alone_finds_is_chance(trial: MakeTrial) -> None:
    found = agreement(summarise(study(trial, found=[1.0, 1.0, *[0.0] * 6], by_control=[0.0, 1.0, 1.0, *[0.0] * 5])))
    assert found is not None
    last = found.hidden[-1]
    assert (last.found["identity"], last.chance["identity"]) == (1, 1)


def test_few_pictures_or_few_measures_say_nothing(trial: MakeTrial) -> None:
    assert agreement([]) is None
    assert agreement(summarise(study(trial, found=[1.0] * N)[:2])) is None
    assert agreement(summarise([trial(obfuscation=spec) for spec in SPECS])) is None  # PSNR and SSIM only


def test_the_curves_take_the_attack_that_got_most_and_the_mean_of_the_scenes(trial: MakeTrial) -> None:
    trials = [
        replace(one, settings={**one.settings, "client": client, "attack": attack})
        for client, gain in (("a", 0.0), ("b", 2.0))
        for attack, less in (("unveil", 0.0), ("rog", 5.0))
        for one in (
            trial(obfuscation=spec, psnr=[20.0 - 2 * place + gain - less] * N, wire_bits=4_000_000 // 4**place)
            for place, spec in enumerate(SPECS)
        )
    ]
    rows = summarise(trials)
    assert [(p.obfuscation, p.value) for p in points(rows, "psnr")] == [
        (spec, 21.0 - 2 * place) for place, spec in enumerate(SPECS)
    ]
    found = rate_leakage(rows)
    assert found is not None
    assert dict(found.taus)["psnr"] == pytest.approx(1)  # fewer bits, less leakage, always
    assert (found.clients, found.attacks) == (2, 2)
    root = ElementTree.fromstring(found.chart)
    assert sum(e.get("class") == "curve family-line family-quantise" for e in root.iter()) == 2  # PSNR and SSIM


def test_one_family_is_no_comparison(trial: MakeTrial) -> None:
    assert rate_leakage(summarise([trial(obfuscation=spec) for spec in SPECS[:3]])) is None


@pytest.mark.slow
def test_the_page_shows_it_all(trial: MakeTrial, folder: Path) -> None:
    trials = [
        with_attack(replace(t, originals=files), images=files)
        for t in study(trial, found=[1.0, *[0.0] * 7])
        for files in [[f"images/{i:02d}.png" for i in range(N)]]
    ]
    page = render(folder, trials)
    assert "Do the metrics agree?" in page
    assert "Do fewer bits mean less leakage?" in page
    assert page.count('class="pair"') >= 2
    assert re.search(r"<b>1</b> \(0\)</td>", page)
    assert "Do the metrics agree?" not in render(folder, trials[:2])


def test_kendalls_tau_is_scipys_and_refuses_what_it_cannot_rank() -> None:
    one, other = [1.0, 4.0, 2.0, 2.0, 5.0], [3.0, 1.0, 2.0, 4.0, 6.0]
    assert kendall_tau(one, other) == pytest.approx(kendalltau(one, other).statistic)
    assert kendall_tau([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert kendall_tau([1.0, 2.0], [1.0, 2.0]) is None
