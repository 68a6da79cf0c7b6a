"""What another source of training pictures adds to a restorer, on pictures of sources that none of them knows.

    unveil fit caltech99_128.npz imagenet700_256.npz --clients 290 --steps 14000 --seed 1 --work both \\
        --evaluate caltech99_128.npz --evaluate published --leave-out

makes the file that is compared; `published` is the folder of the published batch. The shipped restorer was trained by
this command without the second file. The networks answer without being held to any update: what is compared is what
they know of pictures. One attack for each source and obfuscation, 16 pictures, paired.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.frame import DOCS, ROOT, Benchmark, Block, Places, Result, Results
from benchmarks.priors import QSGD8, TOP1, Case, client_of
from unveil import attacks, obfuscations
from unveil.audits.pipeline import play
from unveil.core.fingerprints import fingerprints, overlap
from unveil.enhancers.learned import FAITHFUL, Learned
from unveil.metrics.pixel import psnr
from unveil.report.statistics import bootstrap_mean

TRAINED = ROOT / "both" / "faithful" / "faithful.safetensors"
CASES = tuple(
    Case(source=source, obfuscation=obfuscation)
    for source in ("anchor", "Caltech test", "blood cells", "chest X-rays")
    for obfuscation in (QSGD8, TOP1)
)


def run(case: Case, places: Places) -> Result:
    """Gain in dB of the shipped restorer and of the trained one, with their intervals."""
    client = client_of(case, places.anchor, places.data)
    guess = play(client, obfuscations.parse(case.obfuscation), attacks.parse("unveil"), seed=0).attack
    before = psnr(client.images, guess.images)
    prints = fingerprints(client.images)
    gains = {}
    for name, enhancer in (("shipped", FAITHFUL), ("both sources", Learned(str(TRAINED), TRAINED).checked())):
        gain = bootstrap_mean((psnr(client.images, enhancer(guess).images) - before).tolist())
        gains[name] = {"gain": [gain.mean, gain.low, gain.high], "trained on": len(overlap(prints, enhancer.seen))}
    return gains


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here."""
    there = Path(TRAINED).is_file()
    return places.no_pictures or ("" if there else f"{TRAINED.relative_to(ROOT)} is not there; train it first")


def table(results: Results) -> str:
    """Gains of both restorers."""
    rows = ["| pictures | update sent | shipped: Caltech | Caltech and ImageNet |", "|---|---|---|---|"]
    for case in CASES:
        if str(case) not in results:
            continue
        cells = []
        for found in results[str(case)].values():
            mean, low, high = found["gain"]
            seen = f" ({found['trained on']} trained on)" if found["trained on"] else ""
            cells.append(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]{seen}")
        source = "published batch (ImageNet)" if case.source == "anchor" else case.source
        rows.append(f"| {source} | `{case.obfuscation}` | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


BENCHMARK = Benchmark(
    name="sources",
    title="what another source of training pictures adds to a restorer",
    cases=lambda: CASES,
    run=run,
    missing=missing,
    minutes=4,
    blocks=(Block(page=DOCS / "priors.md", marker="sources", table=table),),
)
