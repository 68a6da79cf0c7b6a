"""Which obfuscations an update went through inside a client: mods announce theirs to the recorders around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from unveil.core.protocols import BufferSetting


@dataclass(frozen=True, kw_only=True)
class Applied:
    """An obfuscation that has worked.

    Args:
        spec: Its SPEC.
        buffers: What it did to the network's buffers.
        facts: What a manifest can say of it besides, by name.
    """

    spec: str
    buffers: BufferSetting
    facts: Mapping[str, Any] = field(default_factory=dict)


_RECORDERS: ContextVar[tuple[list[Applied], ...]] = ContextVar("recorders", default=())


@contextmanager
def announced() -> Iterator[list[Applied]]:
    """Yield a list to which every obfuscation inside the `with` block adds itself, in the order of their work."""
    found: list[Applied] = []
    token = _RECORDERS.set((*_RECORDERS.get(), found))
    try:
        yield found
    finally:
        _RECORDERS.reset(token)


def announce(spec: str, buffers: BufferSetting, **facts: Any) -> None:
    """Tell all recorders around that an obfuscation has worked, and further facts about it."""
    for found in _RECORDERS.get():
        found.append(Applied(spec=spec, buffers=buffers, facts=facts))
