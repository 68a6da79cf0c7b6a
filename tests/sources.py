"""The package's own files, for tests of their structure: each is read and parsed once by a process."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import unveil

SOURCE = Path(unveil.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))


@cache
def text(path: Path) -> str:
    """What a file of the package holds."""
    return path.read_text(encoding="utf-8")


@cache
def tree(path: Path) -> ast.Module:
    """A file of the package, parsed."""
    return ast.parse(text(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Everything in a file of the package, inside functions too."""
    return tuple(ast.walk(tree(path)))
