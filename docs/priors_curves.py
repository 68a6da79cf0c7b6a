"""Write docs/priors-curves.svg: how the shipped enhancers learned, from benchmarks/results/fit-*.jsonl.

python docs/priors_curves.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from unveil.report.charts import LINE, WIDTH, axes
from unveil.report.svg_layout import Scale, spread

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
HEIGHT, TOP, BOTTOM = 330, 40, 48
STYLE = (
    "text{font:11px sans-serif;fill:#555}.title{font-weight:bold;fill:#222}.grid line{stroke:#ddd}"
    ".axis,.zero{stroke:#888}.middle{text-anchor:middle}.end{text-anchor:end}.curve{fill:none;stroke-width:1.8}"
)
COLOURS = ("#1f5fae", "#b5500b", "#1c7a43")

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart of several curves.

    Args:
        title: What is shown.
        up: Name of the vertical axis.
        low, high: Its ends.
        left, right: Pixels from its axis to its last step.
        curves: A name and (step, value) for each.
    """

    title: str
    up: str
    low: float
    high: float
    left: float
    right: float
    curves: Sequence[tuple[str, Curve]]


def learned(name: str) -> list[dict[str, float]]:
    """The validations of one training, in order."""
    return [json.loads(line) for line in (RESULTS / f"fit-{name}.jsonl").read_text().splitlines()]


def over_steps(name: str, score: str) -> Curve:
    """One score of each validation."""
    return [(row["step"], row[score]) for row in learned(name)]


def gain(name: str) -> Curve:
    """What restoring gains in the mean."""
    return [(row["step"], row["restored"] - row["rough"]) for row in learned(name)]


def drawn(panel: Panel) -> str:
    """The panel with each curve named at its end."""
    last = max(step for _, curve in panel.curves for step, _ in curve)
    x = Scale(0, last, panel.left, panel.right)
    y = Scale(panel.low, panel.high, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<text class="title" x="{panel.left:g}" y="{TOP - 18}">{escape(panel.title)}</text>',
        axes(x, y, "training step", panel.up, lambda step: f"{step:,.0f}", beside_at=panel.left - 38),
        f'<line class="zero" x1="{x.start}" x2="{x.end}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>',
    ]
    heights = spread([y(curve[-1][1]) for _, curve in panel.curves], LINE, TOP - LINE / 2, HEIGHT - BOTTOM + LINE / 2)
    for (name, curve), colour, height in zip(panel.curves, COLOURS, heights, strict=False):
        path = "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in curve)
        end = x(curve[-1][0])
        parts.append(
            f'<path class="curve" stroke="{colour}" d="M{path}"/>'
            f'<text x="{end + 6:.1f}" y="{height + 4:.1f}" style="fill:{colour}">{escape(name)}</text>'
        )
    return "".join(parts)


def main() -> None:
    """Draw both charts."""
    restorers = Panel(
        "Restorers: gain over the attack's pictures",
        "PSNR gained, dB",
        -3.5,
        1.5,
        60,
        300,
        (
            ("faithful", gain("faithful")),
            ("faithful, at none", over_steps("faithful", "gain none")),
            ("sharp, from there", [(14_000 + step, value) for step, value in gain("sharp")]),
        ),
    )
    generators = Panel(
        "Generators: named by the reader they learn with",
        "share of pictures",
        0,
        1,
        480,
        660,
        tuple(
            (label, over_steps(name, "named by its own reader"))
            for label, name in (
                ("Caltech-101", "semantic"),
                ("Tiny ImageNet", "semantic-tinyimagenet"),
                ("CIFAR-10", "semantic-cifar10"),
            )
        ),
    )
    DOCS.joinpath("priors-curves.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{drawn(restorers)}{drawn(generators)}</svg>\n'
    )


if __name__ == "__main__":
    main()
