"""Which obfuscations an update went through inside a client: mods announce theirs to the recorders around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_RECORDERS: ContextVar[tuple[list[str], ...]] = ContextVar("recorders", default=())


@contextmanager
def announced() -> Iterator[list[str]]:
    """Yield a list to which every obfuscation inside the `with` block adds its SPEC, in the order of their work."""
    found: list[str] = []
    token = _RECORDERS.set((*_RECORDERS.get(), found))
    try:
        yield found
    finally:
        _RECORDERS.reset(token)


def announce(spec: str) -> None:
    """Tell all recorders around that an obfuscation has worked."""
    for found in _RECORDERS.get():
        found.append(spec)
