"""Finding components of other packages, by `package.module:Class` or by the short name of an entry point."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from unveil.core.errors import UsageError, nearest
from unveil.core.usercode import running, unchanged

FEW = 12  # a message lists the names of a module if it has at most as many

_BESIDE: ContextVar[Path | None] = ContextVar("folder beside which modules are looked for", default=None)


@contextmanager
def modules_beside(folder: Path) -> Iterator[None]:
    """Look for the modules that components are named by in this folder first, inside the `with` block."""
    before = _BESIDE.set(folder.resolve())
    try:
        yield
    finally:
        _BESIDE.reset(before)


def _folders() -> list[Path]:
    """Return the folders in which modules are looked for before the installed ones, the first one first."""
    beside = _BESIDE.get()
    return [*([] if beside is None else [beside]), Path.cwd()]


def installed(kind: str, catalogue: Container[str]) -> dict[str, EntryPoint]:
    """Return the entry points that installed packages declare for a kind, by short name; their group is `unveil.KINDs`.

    Nothing is imported or cached, so a package that is installed while unveil runs is found too.

    Args:
        kind: Kind of the components, such as `obfuscation`.
        catalogue: Names of unveil's own components of that kind.

    Raises:
        UsageError: A package declares a name that unveil or another package already has.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"unveil.{kind}s"):
        if point.name in catalogue:
            raise UsageError(
                f"the package {_package(point)} calls its {kind} {point.name!r}, which unveil has one of; "
                "remove the package, or rename its entry point"
            )
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UsageError(
                f"the packages {_package(other)} and {_package(point)} both have the {kind} {point.name!r}; "
                f"remove one of them, or rename its entry point"
            )
    return found


def find(kind: str, catalogue: Mapping[str, Any], name: str) -> Any:
    """Import the class, or the metric, of a name that is not in the catalogue.

    Args:
        kind: Kind of the component, such as `obfuscation`; it also names the group of entry points.
        catalogue: Names of unveil's own components of that kind.
        name: `package.module:Class`, or the short name of an entry point.

    Raises:
        UsageError: The name is unknown, the module or class is missing, or importing it fails.
    """
    path = name
    if ":" not in name:
        points = installed(kind, catalogue)
        if name not in points:
            raise UsageError(f"unknown {kind} {name!r}; {nearest(name, [*catalogue, *points])}")
        path = points[name].value
    module, _, attribute = path.partition(":")
    with unchanged(0):
        return attribute_of(f"{kind} {name!r}", module, attribute, kind=kind, thing="class")


def refuse_misleading_name(kind: str, catalogue: Container[str], name: str, found: Any) -> None:
    """Raise a `UsageError` if a class has a `name`, which results show, that would not find this class.

    Args:
        kind: Kind of the component, such as `obfuscation`.
        catalogue: Names of unveil's own components of that kind.
        name: The name by which the class was found.
        found: The class.
    """
    own = getattr(found, "name", None)
    path = f"{found.__module__}:{found.__qualname__}"
    if own in (None, name, path):
        return
    points = installed(kind, catalogue)
    if own not in points or points[own].value not in (name, path):
        raise UsageError(
            f"{kind} {name!r}: its `name` is {own!r}, which does not lead to it; leave `name` out of the class, or "
            f"declare it as an entry point of `unveil.{kind}s`"
        )


def attribute_of(who: str, module_name: str, attribute: str, *, kind: str, thing: str) -> Any:
    """Import a module and return one of its attributes.

    The module may be in the current directory, and before that in the folder of `modules_beside`.

    Args:
        who: The component's name for the message.
        module_name: Dotted name of the module.
        attribute: Dotted path of the attribute in the module.
        kind: Kind of the component, such as `model`.
        thing: What the attribute is in Python, such as `factory`, for the message.

    Raises:
        UsageError: The module or the attribute is missing, importing fails, or the attribute cannot be called.
    """
    _check_module(who, module_name, attribute, kind=kind, thing=thing)
    _make_found(module_name)
    importlib.invalidate_caches()
    beside = "put it beside the audit file, or " if _BESIDE.get() is not None else ""
    with running(
        f"{who}: importing {module_name!r}",
        f"{_nearby(module_name)}{beside}run from the directory that holds it, or install it",
    ):
        module = importlib.import_module(module_name)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, ModuleType) or inspect.isbuiltin(found) or (not callable(found) and kind != "metric"):
        found = None
    if found is None:
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = _nearest(attribute, names) or (
            "define a function there that returns the model" if thing == "factory" else f"define the {kind} there"
        )
        raise UsageError(f"{who}: module {module_name!r} has no {thing} {attribute!r}; {hint}")
    return found


def _make_found(module_name: str) -> None:
    """Put the current directory on Python's path, as `python -m` does, and the first folder that has the module.

    A folder that does not have it is left out, so that its other files do not stand for installed modules.
    """
    root = module_name.partition(".")[0]
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    beside = next(
        (folder for folder in _folders() if (folder / f"{root}.py").is_file() or (folder / root).is_dir()), None
    )
    if beside is not None and str(beside) not in sys.path:
        sys.path.insert(0, str(beside))


def _check_module(who: str, name: str, attribute: str, *, kind: str, thing: str) -> None:
    """Raise a `UsageError` if the name is a file, no dotted name, or a module of Python's or unveil's own."""
    root = name.partition(".")[0]
    if name.endswith(".py") or "/" in name or "\\" in name:
        dotted = name.removesuffix(".py").strip("./\\").replace("/", ".").replace("\\", ".")
        raise UsageError(f"{who}: {name!r} is a file, not a module; write {dotted}:{attribute}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{who}: {name!r} is not the name of a module; write it as in package.module:{thing}")
    if root in sys.stdlib_module_names or (root == "unveil" and not name.startswith("unveil.clients.models")):
        whose = "unveil's own" if root == "unveil" else "Python's own"
        raise UsageError(
            f"{who}: {root!r} is {whose} and holds no {kind} of yours; name a module of your own, renamed if it is "
            "called so too"
        )


def _package(point: EntryPoint) -> str:
    """Return the name of the package that declares an entry point, in quotes."""
    return repr(point.dist.name) if point.dist is not None else repr(point.value)


def _nearest(attribute: str, names: list[str]) -> str:
    """Return a hint with the nearest of the names, else one with all names if they are few, else an empty text."""
    hint = nearest(attribute, names) if names else ""
    return hint if hint.startswith("did you mean") or len(names) <= FEW else ""


def _nearby(module_name: str) -> str:
    """Return a hint with a Python file of a similar name in the same folders; empty if there is none."""
    import difflib

    there = [path.stem for folder in _folders() for path in folder.glob("*.py")]
    close = difflib.get_close_matches(module_name, there, n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}? Else " if close and close[0] != module_name else ""
