"""Write docs/performance.svg: which part of the attack takes which share of its time, from the benchmark `performance`.

python docs/performance_picture.py
"""

from __future__ import annotations

import json
from html import escape
from itertools import accumulate
from pathlib import Path

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results" / "performance.json"
WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 860, 200, 830, 12, 34, 26
NARROW = 0.035  # share below which a part has no number in its bar
COLOURS = {
    "search, backward": "#1f5fae",
    "search, forward": "#6ea3dc",
    "search, other": "#b9d2ee",
    "separation between stages": "#b5500b",
    "first separation": "#e39a5f",
    "decoder": "#1c7a43",
    "reading the network": "#8c959f",
    "other": "#d0d7de",
}
LIGHT = {"search, other", "first separation", "other", "search, forward"}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.end{text-anchor:end}.middle{text-anchor:middle}"
    ".on{fill:#fff}.ground{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ground{fill:#1b1f27}"
    ".dark{fill:#24292f}}"
)


def parts() -> dict[str, dict[str, float]]:
    """Update sent -> part -> share of the attack's time, 0 to 1."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {key.split("; ")[1]: one["result"]["shares"] for key, one in kept.items() if key.startswith("parts; ")}


def bar(sent: str, shares: dict[str, float], top: float) -> str:
    """One bar, its parts in the order of the legend."""
    drawn = [f'<text class="end" x="{LEFT - 10}" y="{top + BAR / 2 + 4:g}">{escape(sent)}</text>']
    sizes = [shares.get(name, 0.0) * (RIGHT - LEFT) for name in COLOURS]
    starts = accumulate(sizes, initial=float(LEFT))
    for (name, colour), start, size in zip(COLOURS.items(), starts, sizes, strict=False):
        share = shares.get(name, 0.0)
        title = f"<title>{escape(name)}: {100 * share:.0f} %</title>"
        drawn.append(
            f'<rect x="{start:.1f}" y="{top:g}" width="{size:.1f}" height="{BAR}" fill="{colour}">{title}</rect>'
        )
        if share >= NARROW:
            kind = "middle dark" if name in LIGHT else "middle on"
            middle, line = start + size / 2, top + BAR / 2 + 4
            drawn.append(f'<text class="{kind}" x="{middle:.1f}" y="{line:g}">{100 * share:.0f} %</text>')
    return "".join(drawn)


def legend(top: float) -> str:
    """A square and a name for each part, four in a line."""
    drawn = []
    for number, (name, colour) in enumerate(COLOURS.items()):
        x, y = 20 + 210 * (number % 4), top + 22 * (number // 4)
        drawn.append(
            f'<rect x="{x}" y="{y - 10:g}" width="12" height="12" fill="{colour}"/>'
            f'<text x="{x + 18}" y="{y:g}">{name}</text>'
        )
    return "".join(drawn)


def main() -> None:
    """Draw the picture."""
    found = parts()
    bars = [bar(sent, shares, TOP + row * (BAR + GAP)) for row, (sent, shares) in enumerate(found.items())]
    under = TOP + len(bars) * (BAR + GAP) + 10
    height = under + 40
    DOCS.joinpath("performance.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"><style>{STYLE}</style>'
        f'<rect class="ground" width="100%" height="100%"/>{"".join(bars)}{legend(under)}</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
