"""The house's one law of structure: imports go down the levels, and the rooms of level 1 do not know one another."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import unveil

SOURCE = Path(unveil.__file__).parent
LEVELS = (
    {
        "core",
        "thin",
        "gradient",
        "network",
        "arithmetic",
        "spec",
        "bounds",
        "errors",
        "files",
        "arrays",
        "checkpoints",
        "usercode",
        "twice",
        "fingerprints",
    },
    {
        "training",
        "obfuscations",
        "attacks",
        "enhancers",
        "metrics",
        "alignment",
        "pictures",
        "models",
        "scenes",
        "statistics",
        "meter",
    },
    {"attacker", "controls", "enhancing", "fitting", "measures", "trial", "audit", "results", "records"},
    {"report", "config"},
    {"cli", "demo", "listing", "progress", "__main__"},
)
ROOMS = 1
DOORS = {("scenes", "pictures"), ("scenes", "models"), ("scenes", "training"), ("attacks", "enhancers")}
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level rooms of unveil that a file imports, inside functions and for type checking too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [f"unveil.{alias.name}" for alias in node.names] if node.module == "unveil" else [node.module or ""]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("unveil.") and name != "unveil.__version__")


def allowed(room: str, other: str) -> bool:
    if room == other or (room, other) in DOORS:
        return True
    if LEVEL[room] == LEVEL[other] == ROOMS:
        return False
    return LEVEL[other] <= LEVEL[room]


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_go_down(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"{room} has no level yet; give it one in {Path(__file__).name} and in DESIGN"
    wrong = {other for other in imported(ast.parse(path.read_text(encoding="utf-8"))) if not allowed(room, other)}
    assert not wrong, f"{room} (level {LEVEL[room]}) must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize(
    ("room", "other", "verdict"),
    [
        ("audit", "core", True),
        ("core", "audit", False),
        ("attacks", "training", False),
        ("scenes", "models", True),
        ("models", "scenes", False),
        ("report", "results", True),
        ("report", "cli", False),
    ],
)
def test_the_law_itself(room: str, other: str, verdict: bool) -> None:
    assert allowed(room, other) is verdict


@pytest.mark.parametrize(
    ("code", "rooms"),
    [
        ("import unveil.core", ["core"]),
        ("from unveil.attacks.matching import Matching", ["attacks"]),
        ("from unveil import training, __version__", ["training"]),
        ("def f():\n    from unveil.cli import main", ["cli"]),
        ("import torch", []),
    ],
)
def test_every_form_of_import_is_seen(code: str, rooms: list[str]) -> None:
    assert list(imported(ast.parse(code))) == rooms
