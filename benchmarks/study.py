"""The three claims on other pictures: the tables and figures of docs/study.md from finished audits.

    python -m benchmarks.unpack
    unveil audit studies/false_sense.toml --lpips-weights FILE --out audits/false_sense
    python -m benchmarks run study --only false_sense --fresh --audit audits/false_sense
    unveil audit studies/pictures.toml
    python -m benchmarks run study --only pictures --fresh --audit audits/pictures
    unveil audit studies/defences.toml
    python -m benchmarks run study --only defences --fresh --audit audits/defences

The second case draws docs/study.png.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from PIL import Image, ImageDraw

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result
from unveil.audits.results import read_trials
from unveil.core.files import write_whole
from unveil.metrics import facts_of
from unveil.report import summarise
from unveil.report.metric_agreement import agreement
from unveil.report.rate_leakage import rate_leakage
from unveil.report.rows import Row

SHOWN = ("psnr", "ssim", "lpips", "semantic_jaccard", "true_class", "reid_top1")
CLAIMS = ("recovered", "clients", "taus", "hidden")
SIDE, GAP, LEFT, TOP, ACROSS = 96, 4, 330, 24, 6


def recovered(rows: Sequence[Row]) -> str:
    """Claim 1: what each attack got through each obfuscation, mean over the clients, and the verdicts."""
    titles = [facts_of(name).heading for name in SHOWN]
    lines = [line("obfuscation", "smaller", "attack", *titles, "verdicts"), line(*["---"] * (4 + len(titles)))]
    for obfuscation in dict.fromkeys(row.obfuscation for row in rows):
        for attack in dict.fromkeys(row.attack for row in rows):
            there = [row for row in rows if (row.obfuscation, row.attack) == (obfuscation, attack)]
            scores = [f"{fmean(row.scores[n].mean.mean for row in there):.{facts_of(n).digits}f}" for n in SHOWN]
            levels = Counter(row.verdict.level.value.lower() for row in there)
            said = ", ".join(f"{count} {level}" for level, count in sorted(levels.items()))
            smaller = f"{fmean(row.compression for row in there):.1f}"
            lines.append(line(f"`{obfuscation}`", smaller, f"`{attack}`", *scores, said))
    return "\n".join(lines) + "\n"


def clients(rows: Sequence[Row]) -> str:
    """Claim 1, by client: PSNR of the attack that got most."""
    names = list(dict.fromkeys(row.client for row in rows))
    lines = [line("obfuscation", *names), line(*["---"] * (1 + len(names)))]
    for obfuscation in dict.fromkeys(row.obfuscation for row in rows):
        cells = []
        for name in names:
            there = [row for row in rows if (row.client, row.obfuscation) == (name, obfuscation)]
            best = max(there, key=lambda row: row.scores["psnr"].mean.mean)
            blind = best.scores["psnr"].blind
            above = "" if blind is None else f" ({best.scores['psnr'].mean.mean - blind:+.1f})"
            cells.append(f"{best.scores['psnr'].mean.mean:.1f}{above}")
        lines.append(line(f"`{obfuscation}`", *cells))
    return "\n".join(lines) + "\n"


def defences(rows: Sequence[Row]) -> str:
    """PSNR through each obfuscation, a line for each client, attacker and attack, with the verdicts that occur."""
    sent = list(dict.fromkeys(row.obfuscation for row in rows))
    lines = [
        line("client", "attacker", "attack", *(f"`{name}`" for name in sent), "verdicts"),
        line(*["---"] * (4 + len(sent))),
    ]
    for key in dict.fromkeys((row.client, row.threat_model, row.attack) for row in rows):
        there = {row.obfuscation: row for row in rows if (row.client, row.threat_model, row.attack) == key}
        scores = [f"{there[name].scores['psnr'].mean.mean:.1f}" if name in there else "-" for name in sent]
        levels = dict.fromkeys(there[name].verdict.level.value.lower() for name in sent if name in there)
        client, attacker, attack = key
        lines.append(line(client, attacker, f"`{attack}`", *scores, ", ".join(levels)))
    return "\n".join(lines) + "\n"


def contradictions(rows: Sequence[Row]) -> dict[str, str]:
    """Claim 3: Kendall's tau with PSNR and SSIM, and the pictures of which the metrics say different things."""
    found = agreement(rows)
    if found is None:
        return {}
    others = [name for name in found.names if name not in ("psnr", "ssim")]
    taus = [line("", *(facts_of(n).heading for n in others)), line(*["---"] * (1 + len(others)))]
    for pixel in ("psnr", "ssim"):
        for inside, said in ((False, "all"), (True, "inside one batch")):
            pairs = [found.pair(pixel, other) for other in others]
            cells = [
                "" if p is None else f"{p.within:.2f}" if inside and p.within is not None else f"{p.overall.mean:.2f}"
                for p in pairs
            ]
            taus.append(line(f"{facts_of(pixel).heading}, {said}", *cells))
    safe_, back_ = ("safe by pixels", "but identity", "but meaning"), ("back by pixels", "no identity", "no meaning")
    head = ("obfuscation", *safe_, *back_)
    hidden = [line(*head), line(*["---"] * len(head))]
    for one in found.hidden:
        safe = [f"{one.found[what]} ({one.chance[what]})" for what in ("identity", "meaning")]
        back = [one.missed[what] for what in ("identity", "meaning")]
        hidden.append(line(f"`{one.obfuscation}`", one.safe, *safe, one.scored - one.safe, *back))
    return {"taus": "\n".join(taus) + "\n", "hidden": "\n".join(hidden) + "\n"}


def chart(rows: Sequence[Row]) -> None:
    """Claim 2: the report's curves, as a file of its own; and the taus, printed."""
    found = rate_leakage(rows)
    if found is None:
        return
    hues = {"none": "#111", "quantise": "#1f5fae", "sparsify": "#b5500b", "perturb": "#1c7a43"}
    style = (
        "text{font:11px sans-serif;fill:#555}.grid line{stroke:#ddd}.axis{stroke:#888}"
        ".middle{text-anchor:middle}.end{text-anchor:end}.curve{fill:none;stroke-width:1.7}"
        + "".join(
            f".family-{name} .marker{{fill:{hue};stroke:#fff}}.family-{name}.curve{{stroke:{hue}}}"
            for name, hue in hues.items()
        )
    )
    legend, x = [], 60
    for family, outline, name in found.families:
        mark = f'<path class="marker" transform="translate({x} 0)" d="{outline}"/>'
        legend.append(f'<g class="family-{family}">{mark}<text x="{x + 12}" y="4">{name}</text></g>')
        x += 150
    drawing = str(found.chart)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    assert size, "the chart has a viewBox"
    width, height = float(size[1]), float(size[2]) + 30
    inner = re.sub(r"^.*?<svg[^>]*>|</svg>\s*$", "", drawing, flags=re.DOTALL)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<g transform="translate(0 14)">{"".join(legend)}</g><g transform="translate(0 30)">{inner}</g></svg>\n'
    )
    write_whole(DOCS / "study-families.svg", svg.encode())


def draw(folder: Path) -> None:
    """One row of originals, one for each obfuscation and attack."""
    trials = read_trials(folder)
    rows = [("original", trials[0].originals)]
    for obfuscation in dict.fromkeys(trial.settings["obfuscation"] for trial in trials):
        for trial in trials:
            if trial.settings["obfuscation"] == obfuscation:
                score = fmean(trial.scores["psnr"])
                rows.append(
                    (f"{obfuscation}, {trial.settings['attack'].split(':')[0]}: {score:.1f} dB", trial.final.images)
                )
    sheet = Image.new("RGB", (LEFT + ACROSS * (SIDE + GAP), len(rows) * (SIDE + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, files) in enumerate(rows):
        pen.text((4, i * (SIDE + GAP) + SIDE // 2 - 6), name, fill="black", font_size=12)
        for j, file in enumerate(files[:ACROSS]):
            picture = Image.open(folder / file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(picture, (LEFT + j * (SIDE + GAP), i * (SIDE + GAP)))
    sheet.quantize(128).save(DOCS / "study.png", optimize=True)


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def run(case: str, places: Places) -> Result:
    """The tables of the three claims, the picture of the small study, or the table of the study of defences."""
    assert places.audit is not None
    if case == "pictures":
        draw(places.audit)
        return {}
    rows = summarise(read_trials(places.audit))
    if case == "defences":
        return {"defences": defences(rows)}
    chart(rows)
    return {"recovered": recovered(rows), "clients": clients(rows), **contradictions(rows)}


def missing(case: str, places: Places) -> str:
    """Why a case cannot be run here."""
    return "" if places.audit else f"run unveil audit studies/{case}.toml and name its results folder with --audit"


BENCHMARK = Benchmark(
    name="study",
    title="tables of the three claims and of the defences, from audits",
    cases=lambda: ["false_sense", "pictures", "defences"],
    run=run,
    missing=missing,
    minutes=80,
    blocks=tuple(
        Block(page=DOCS / "study.md", marker=name, table=lambda results, case=case, name=name: results[case][name])
        for case, name in (*(("false_sense", name) for name in CLAIMS), ("defences", "defences"))
    ),
)
