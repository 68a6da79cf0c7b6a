"""Write docs/cohorts.svg: what comes back against the number of clients, from the benchmark `cohorts`.

python docs/cohorts_picture.py
"""

from __future__ import annotations

import json
import sys
from math import log2
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks.cohorts import CLIENTS, EACH, Line, lines  # noqa: E402 (the repository's root is no package)

RESULTS = DOCS.parent / "benchmarks" / "results" / "cohorts.json"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 330, 60, 600, 40, 270
LOW, HIGH = 10.0, 36.0  # dB
COLOURS = {"LeNet": "#1f5fae", "ResNet-18": "#b5500b"}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.end{text-anchor:end}.middle{text-anchor:middle}"
    ".ground{fill:#fff}.grid{stroke:#d0d7de}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ground{fill:#1b1f27}"
    ".grid{stroke:#3d444d}}"
)


def across(clients: int) -> float:
    """Where a number of clients stands."""
    return LEFT + 30 + (RIGHT - LEFT - 60) * log2(clients) / log2(max(CLIENTS))


def up(decibels: float) -> float:
    """Where a PSNR stands."""
    return BOTTOM - (BOTTOM - TOP) * (decibels - LOW) / (HIGH - LOW)


def curve(network: str, found: list[Line]) -> str:
    """The line of a network with its intervals, and dashed that of a blind guess."""
    colour = COLOURS[network]
    points = " ".join(f"{across(one.clients):.1f},{up(one.psnr.mean):.1f}" for one in found)
    grey = " ".join(f"{across(one.clients):.1f},{up(one.grey):.1f}" for one in found)
    marks = "".join(
        f'<path d="M{across(one.clients):.1f} {up(one.psnr.low):.1f}V{up(one.psnr.high):.1f}" stroke="{colour}"/>'
        f'<circle cx="{across(one.clients):.1f}" cy="{up(one.psnr.mean):.1f}" r="4" fill="{colour}">'
        f"<title>{network}, {one.clients} clients: {one.psnr.mean:.1f} dB</title></circle>"
        for one in found
    )
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>{marks}'
        f'<polyline points="{grey}" fill="none" stroke="{colour}" stroke-dasharray="4 4"/>'
    )


def frame() -> str:
    """Grid, numbers and names of the axes."""
    drawn = [
        f'<path class="grid" d="M{LEFT} {up(value):.1f}H{RIGHT}"/>'
        f'<text class="end" x="{LEFT - 8}" y="{up(value) + 4:.1f}">{value}</text>'
        for value in range(10, 36, 5)
    ]
    drawn += [f'<text class="middle" x="{across(k):.1f}" y="{BOTTOM + 18}">{k}</text>' for k in CLIENTS]
    drawn.append(f'<text class="middle" x="{(LEFT + RIGHT) / 2:g}" y="{BOTTOM + 40}">clients in the cohort</text>')
    drawn.append(f'<text x="{LEFT - 40}" y="{TOP - 18}">PSNR, dB; dashed: a blind guess</text>')
    names = [
        f'<text x="{330 + 150 * at}" y="{TOP - 18}" style="fill:{COLOURS[name]}">{name}, {EACH[name]} a client</text>'
        for at, name in enumerate(EACH)
    ]
    return "".join([*drawn, *names])


def main() -> None:
    """Draw the picture."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    results = {key: one["result"] for key, one in kept.items()}
    curves = "".join(curve(network, found) for network in EACH if (found := lines(results, network)))
    DOCS.joinpath("cohorts.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"><style>{STYLE}</style>'
        f'<rect class="ground" width="100%" height="100%"/>{frame()}{curves}</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
