"""A fact about a recorded update: its value, and where the value comes from; unknown is a value too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast, get_args

from unveil.core.bounds import LARGE, SMALL

Source = Literal["observed", "declared", "estimated", "unknown"]
"""`observed` by whoever recorded, `declared` by the client, `estimated` from the update, or `unknown`."""

SOURCES: tuple[Source, ...] = get_args(Source)

T = TypeVar("T")

TEXT = 200
"""Most characters of a text."""
WHOLE = 10**9
"""Largest whole number: of steps, pictures, classes or pixels a side."""
LABELS = 100_000
"""Most labels."""


@dataclass(frozen=True, kw_only=True)
class Fact(Generic[T]):
    """One fact about a recorded update.

    Args:
        value: The value; None if it is unknown.
        source: Where the value comes from; `unknown` if and only if there is none.
    """

    value: T | None = None
    source: Source = "unknown"

    @property
    def as_json(self) -> dict[str, Any]:
        """The fact as it stands in a manifest; tuples are lists there."""
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return {"value": value, "source": self.source}


UNKNOWN: Fact[Any] = Fact()
"""A fact of which nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The values that a fact may have.

    Args:
        expected: The values in words, for messages.
        accepts: Whether a value of parsed JSON is one of them.
        schema: The same as JSON Schema.
    """

    expected: str
    accepts: Callable[[Any], bool]
    schema: Mapping[str, Any]


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and least <= value <= most


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= TEXT and value.isprintable()


def whole(least: int, most: int = WHOLE) -> Kind:
    """Return the kind of the whole numbers from `least` to `most`."""
    return Kind(
        expected=f"a whole number from {least} to {most}",
        accepts=lambda value: _is_whole(value, least, most),
        schema={"type": "integer", "minimum": least, "maximum": most},
    )


def number(least: float, most: float) -> Kind:
    """Return the kind of the finite numbers from `least` to `most`."""
    return Kind(
        expected=f"a number from {least:g} to {most:g}",
        accepts=lambda value: _is_number(value, least, most),
        schema={"type": "number", "minimum": least, "maximum": most},
    )


def one_of(*words: str) -> Kind:
    """Return the kind of the given words."""
    return Kind(
        expected=" or ".join(f'"{word}"' for word in words),
        accepts=lambda value: isinstance(value, str) and value in words,
        schema={"enum": list(words)},
    )


def list_of(what: str, items: Kind, least: int, most: int) -> Kind:
    """Return the kind of the lists of `least` to `most` values of a kind; `what` says what they are in a message."""
    return Kind(
        expected=what,
        accepts=lambda value: (
            isinstance(value, list) and least <= len(value) <= most and all(items.accepts(item) for item in value)
        ),
        schema={"type": "array", "items": dict(items.schema), "minItems": least, "maxItems": most},
    )


POSITIVE = number(SMALL, LARGE)
FLAG = Kind(expected="true or false", accepts=lambda value: type(value) is bool, schema={"type": "boolean"})
TEXTUAL = Kind(
    expected=f"a text of 1 to {TEXT} printable characters",
    accepts=_is_text,
    schema={"type": "string", "minLength": 1, "maxLength": TEXT},
)
_CHANNELS = list_of("one number for each colour channel", number(-LARGE, LARGE), 1, 64)
_SPREADS = list_of("one number for each colour channel", POSITIVE, 1, 64)
NORMALISATION = Kind(
    expected='{"mean": [...], "std": [...]}, one number for each colour channel, std above 0',
    accepts=lambda value: (
        isinstance(value, dict)
        and value.keys() == {"mean", "std"}
        and _CHANNELS.accepts(value["mean"])
        and _SPREADS.accepts(value["std"])
        and len(value["mean"]) == len(value["std"])
    ),
    schema={
        "type": "object",
        "properties": {"mean": dict(_CHANNELS.schema), "std": dict(_SPREADS.schema)},
        "required": ["mean", "std"],
        "additionalProperties": False,
    },
)


def fact_of(name: str, kind: Kind, given: Any) -> Fact[Any]:
    """Return a fact from parsed JSON.

    Args:
        name: The fact's name, for the message.
        kind: The values that it may have.
        given: What the manifest has: `{"value": ..., "source": ...}`.

    Raises:
        ValueError: It is no such table, or the value is of another kind.
    """
    if not isinstance(given, dict) or given.keys() != {"value", "source"}:
        raise ValueError(f'expected {name} as {{"value": ..., "source": ...}}')
    value, source = given["value"], given["source"]
    if source not in SOURCES:
        raise ValueError(f"expected the source of {name} as one of {', '.join(SOURCES)}")
    if (source == "unknown") != (value is None):
        raise ValueError(f"expected {name} to have the source unknown if its value is null, and only then")
    if value is not None and not kind.accepts(value):
        raise ValueError(f"expected {name} as {kind.expected}")
    return Fact(value=tuple(value) if isinstance(value, list) else value, source=cast(Source, source))
