"""The house's one law of structure: imports go down only, as one table says."""

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sources
from sources import SOURCE, nodes, tree

GROUND = {"core"}
COMPONENTS = GROUND | {"obfuscations", "enhancers", "metrics"}
MAY_IMPORT = {
    "core": GROUND,
    "clients": GROUND,
    "obfuscations": GROUND,
    "enhancers": GROUND,
    "metrics": GROUND,
    "privacy": GROUND | {"obfuscations"},
    "captures": GROUND | {"obfuscations"},  # recorders alone; see `test_a_file_meets_no_component`
    "attacks": COMPONENTS,  # not clients: an attack never meets the private batch
    "inspection": GROUND | {"obfuscations", "attacks", "captures"},
    "report": GROUND | {"metrics", "privacy"},
    "audits": COMPONENTS | {"clients", "attacks", "captures", "inspection", "privacy"},
    "fitting": COMPONENTS | {"clients", "attacks", "audits"},
    "gate": GROUND | {"metrics", "report"},
    "advice": GROUND | {"obfuscations", "metrics", "clients", "captures", "audits", "gate", "report"},
    "testing": COMPONENTS | {"clients", "attacks"},  # laws that other packages run
    "cli": COMPONENTS
    | {"clients", "attacks", "advice", "audits", "captures", "fitting", "gate", "inspection", "privacy", "report"},
    "__main__": {"cli"},
}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Rooms of unveil that a file imports, inside functions and for type checking too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [f"unveil.{alias.name}" for alias in node.names] if node.module == "unveil" else [node.module or ""]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("unveil.") and name != "unveil.__version__")


def allowed(room: str, other: str) -> bool:
    return other == room or other in MAY_IMPORT[room]


FILES = [path for path in sources.FILES if path != SOURCE / "__init__.py"]


def test_every_folder_is_a_room() -> None:
    rooms = {room_of(path) for path in FILES}
    assert rooms == set(MAY_IMPORT), f"give each room a place in {Path(__file__).name} and in docs/architecture.md"


def test_imports_only_go_down() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)} must not import {other}"
        for path in FILES
        for other in sorted(set(imported(nodes(path))))
        if not allowed(room_of(path), other)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_has_no_circle() -> None:
    rooms = list(MAY_IMPORT)
    for room, others in MAY_IMPORT.items():
        below = rooms[: rooms.index(room) + 1]
        assert others <= set(below), f"{room} may only import rooms that stand above it in the table"


def files_of(nodes: Iterable[ast.AST], modules: set[str]) -> set[str]:
    """Modules of unveil that a file imports, inside functions too; a package's face stands for itself."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & modules or {node.module}
    return found & modules


def test_no_circle_of_files() -> None:
    paths = {".".join(("unveil", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in FILES}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    list(TopologicalSorter({name: files_of(nodes(path), set(paths)) for name, path in paths.items()}).static_order())


def test_a_circle_of_files_is_seen() -> None:
    modules = {"unveil.a", "unveil.b"}
    one = files_of(ast.walk(ast.parse("def f():\n    from unveil import b")), modules)
    other = files_of(ast.walk(ast.parse("from unveil.a import thing")), modules)
    assert (one, other) == ({"unveil.b"}, {"unveil.a"})
    with pytest.raises(CycleError):
        list(TopologicalSorter({"unveil.a": one, "unveil.b": other}).static_order())


def test_a_file_meets_no_component() -> None:
    """What reads recorded updates, which anybody may have made, imports no obfuscation, and no recorder that does."""
    readers = [path for path in FILES if path.parent == SOURCE / "captures"]
    assert len(readers) > 10
    for path in readers:
        assert set(imported(nodes(path))) <= {"core", "captures"}, path
        assert "unveil.captures.flower" not in ast.unparse(tree(path)), path
        assert "unveil.captures.nvflare" not in ast.unparse(tree(path)), path


@pytest.mark.parametrize(
    ("room", "other", "verdict"),
    [
        ("audits", "core", True),
        ("core", "audits", False),
        ("attacks", "clients", False),
        ("attacks", "enhancers", True),
        ("clients", "obfuscations", False),
        ("report", "audits", False),
        ("report", "metrics", True),
        ("fitting", "cli", False),
    ],
)
def test_the_law_itself(room: str, other: str, verdict: bool) -> None:
    assert allowed(room, other) is verdict


@pytest.mark.parametrize(
    ("code", "rooms"),
    [
        ("import unveil.core", ["core"]),
        ("from unveil.attacks.matching import Matching", ["attacks"]),
        ("from unveil import clients, __version__", ["clients"]),
        ("def f():\n    from unveil.cli import main", ["cli"]),
        ("import torch", []),
    ],
)
def test_every_form_of_import_is_seen(code: str, rooms: list[str]) -> None:
    assert list(imported(ast.walk(ast.parse(code)))) == rooms
