"""The only door to the terminal: whatever unveil prints goes through here, and no text can rewrite what is shown."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from unveil.core.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str, *, err: bool = False) -> None:
    """Print a text on standard output, or on standard error."""
    click.echo(printable(text), err=err)


def say_json(text: str) -> None:
    """Print JSON on standard output; control characters in its strings are written as JSON escapes."""
    click.echo("".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text))


def console(*, err: bool = False, width: int | None = None) -> Console:
    """A console of rich that prints colours and bars of its own, but no control characters of a text."""
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
            for segment in super().render(*args, **options):
                is_own = bool(segment.control) or segment.text.isprintable()
                yield segment if is_own else Segment(printable(segment.text), segment.style)

    return Plain(stderr=err, width=width)


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Print the warnings of unveil's loggers on standard error inside the `with` block."""
    handler = _Said(logging.WARNING)
    logger = logging.getLogger("unveil")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Said(logging.Handler):
    """Prints each message as `say` does."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), err=True)


def _escaped(character: str) -> str:
    """The character as JSON escapes it, in two parts if it is beyond 16 bits."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
