"""Draw docs/house.svg: the rooms of src/unveil on their floors, and which imports which.

python docs/house_picture.py
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise, permutations
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "unveil"
WIDTH, ROOF, FLOOR = 800, 60, 92
WIDE, HIGH = 146, 44  # of a room
PLACES = range(92, WIDTH - 80, 77)  # where the middle of a room may stand; two rooms of a floor are two places apart
STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#24292f;text-anchor:middle}.small{font-size:10px;fill:#57606a}"
    ".ground{fill:#fff}.wall{fill:none;stroke:#8c959f;stroke-width:1.5}.slab{stroke:#d8dee4}"
    ".room{fill:#ddf4ff;stroke:#54aeff}.next{stroke:#0550ae;stroke-width:1.4}.far{stroke:#0550ae;opacity:.2}"
    ".tip{fill:#0550ae}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#a5adb8}.ground{fill:#1b1f27}"
    ".wall{stroke:#6e7681}.slab{stroke:#343b46}.room{fill:#12304f;stroke:#388bfd}.next,.far{stroke:#79c0ff}"
    ".tip{fill:#79c0ff}}"
)

Rooms = Mapping[str, set[str]]
"""What each room imports."""


def rooms() -> dict[str, set[str]]:
    """The folders of the package, and the other folders that the files of each import."""
    names = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
    return {
        name: {other for path in (SOURCE / name).rglob("*.py") for other in imported(path)} - {name} for name in names
    }


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports, inside functions and for type checking too."""
    for line in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match line:
            case ast.ImportFrom(module="unveil", names=names):
                yield from (name.name for name in names if not name.name.startswith("_"))
            case ast.ImportFrom(module=str(module)) if module.startswith("unveil."):
                yield module.split(".")[1]
            case ast.Import(names=names):
                yield from (name.name.split(".")[1] for name in names if name.name.startswith("unveil."))


def level(room: str, below: Rooms) -> int:
    """The longest way from a room down to one that imports nothing; a circle of imports has none."""
    return max((level(other, below) + 1 for other in below[room]), default=0)


def reached(room: str, below: Rooms) -> set[str]:
    """All that a room imports, at first or second hand."""
    return below[room] | {far for other in below[room] for far in reached(other, below)}


def direct(below: Rooms) -> dict[str, set[str]]:
    """The imports that do not follow from others."""
    return {
        room: {other for other in others if not any(other in reached(between, below) for between in others)}
        for room, others in below.items()
    }


def placed(below: Rooms) -> dict[str, tuple[float, float]]:
    """The middle of each room in pixels, floor by floor where arrows are shortest and cross no room."""
    floors: dict[int, list[str]] = {}
    for room in below:
        floors.setdefault(level(room, below), []).append(room)
    height = {room: ROOF + FLOOR * (len(floors) - floor - 0.5) for floor in floors for room in floors[floor]}
    across: dict[str, float] = {}
    arrows = [(room, other) for room, others in direct(below).items() for other in others]

    def cost() -> float:
        total = 0.0
        for room, other in sorted(arrows):
            total += (across[room] - across[other]) ** 2
            for third in below:
                if height[room] < height[third] < height[other]:
                    share = (height[third] - height[room]) / (height[other] - height[room])
                    x = across[room] + share * (across[other] - across[room])
                    total += 1e6 * (abs(x - across[third]) < WIDE * 0.7)
        return total + sum((x - WIDTH / 2) ** 2 for x in across.values()) / 10

    best: list[tuple[float, dict[str, float]]] = []
    for start in range(len(PLACES) - 1):  # one floor after the other finds a valley; the deepest of some is taken
        for names in floors.values():
            across.update((room, float(PLACES[(2 * i + start) % len(PLACES)])) for i, room in enumerate(names))
        for floor in 3 * sorted(floors, reverse=True):
            choices = []
            for spots in combinations(PLACES, len(floors[floor])):
                if all(right - left > WIDE for left, right in pairwise(spots)):
                    for order in permutations(floors[floor]):
                        across.update(zip(order, map(float, spots), strict=True))
                        choices.append((cost(), order, spots))
            _, order, spots = min(choices)
            across.update(zip(order, map(float, spots), strict=True))
        best.append((cost(), dict(across)))
    across = min(best, key=lambda found: found[0])[1]
    return {room: (across[room], height[room]) for room in below}


def spread(room: str, others: set[str], middles: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Where on the edge of a room the arrows to or from others begin or end, none upon another."""
    order = sorted(others, key=lambda other: middles[other])
    return {other: middles[room][0] + (i - (len(order) - 1) / 2) * 20 for i, other in enumerate(order)}


def arrows(below: Rooms, middles: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """A line for each import: with a tip, or faint and from middle to middle where it follows from others."""
    near = direct(below)
    starts = {room: spread(room, near[room], middles) for room in below}
    ends = {room: spread(room, {other for other in below if room in near[other]}, middles) for room in below}
    for room, others in below.items():
        for other in sorted(others):
            y, v = middles[room][1] + HIGH / 2, middles[other][1] - HIGH / 2
            name = f'data-from="{room}" data-to="{other}"'
            if other in near[room]:
                x, u = starts[room][other], ends[other][room]
                yield f'<path class="tip" d="M{u - 4:.0f} {v - 7:.0f}h8l-4 7z"/>'
                yield f'<line class="next" {name} x1="{x:.0f}" y1="{y:.0f}" x2="{u:.0f}" y2="{v - 6:.0f}"/>'
            else:
                x, u = middles[room][0], middles[other][0]
                yield f'<line class="far" {name} x1="{x:.0f}" y1="{y:.0f}" x2="{u:.0f}" y2="{v:.0f}"/>'


def picture(below: Rooms) -> str:
    """The house as SVG: a box for each room with the folders inside it, and an arrow for each import."""
    middles = placed(below)
    bottom = round(max(y for _, y in middles.values()) + FLOOR / 2)
    parts = [
        '<rect class="ground" width="100%" height="100%" rx="6"/>',
        f'<path class="wall" d="M12 {bottom}V{ROOF}L{WIDTH // 2} 8L{WIDTH - 12} {ROOF}V{bottom}z"/>',
    ]
    for floor, y in enumerate(range(bottom, ROOF, -FLOOR)):
        parts.append(f'<line class="slab" x1="12" y1="{y}" x2="{WIDTH - 12}" y2="{y}"/>')
        parts.append(f'<text class="small" x="24" y="{y - 8}">{floor}</text>')
    parts += sorted(arrows(below, middles), key=lambda line: 'class="far"' not in line)
    for room, (x, y) in middles.items():
        inside = ", ".join(sorted(path.parent.name for path in (SOURCE / room).glob("*/__init__.py")))
        corner = f'x="{x - WIDE / 2:.0f}" y="{y - HIGH / 2:.0f}"'
        parts.append(f'<rect class="room" {corner} width="{WIDE}" height="{HIGH}" rx="5"/>')
        parts.append(f'<text x="{x:.0f}" y="{y + (0 if inside else 5):.0f}">{room}</text>')
        if inside:
            parts.append(f'<text class="small" x="{x:.0f}" y="{y + 14:.0f}">{inside}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 8}" width="{WIDTH}">'
        f"<title>The rooms of unveil and their imports, which only go down</title><style>{STYLE}</style>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("house.svg").write_text(picture(rooms()), encoding="utf-8")
