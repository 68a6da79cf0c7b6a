"""Pictures and weights that one process has read from files, handed on to others that do not read them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Reads = dict[str, Any]
"""What was read, by the function that read it and its arguments."""

P = ParamSpec("P")
R = TypeVar("R")

_reads: ContextVar[Reads | None] = ContextVar("reads", default=None)


@contextmanager
def sharing(reads: Reads | None) -> Iterator[None]:
    """Add to `reads` what functions marked with `shared_read` read inside the `with` block, unless it is there.

    Args:
        reads: What was read, which may come from another process; None to read everything and to keep nothing.
    """
    before = _reads.set(reads)
    try:
        yield
    finally:
        _reads.reset(before)


def shared_read(read: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that reads files, and whose result depends on nothing but them and its arguments.

    The result is not copied: nobody may change it. Arguments are told apart by their `repr`.
    """

    @wraps(read)
    def once(*args: P.args, **options: P.kwargs) -> R:
        reads = _reads.get()
        if reads is None:
            return read(*args, **options)
        key = f"{read.__module__}.{read.__qualname__}{(args, sorted(options.items()))!r}"
        if key not in reads:
            reads[key] = read(*args, **options)
        found: R = reads[key]
        return found

    return once
