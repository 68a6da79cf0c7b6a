"""JSON that anybody may have written: no name twice, no NaN."""

from __future__ import annotations

import json
from typing import Any


def parsed(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: The text is no JSON, nests too deep, names something twice in one table, or has NaN, an infinity or
            a number of thousands of digits.
    """
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(plain, object_pairs_hook=_table, parse_constant=_refuse)
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8") from None
    except RecursionError:
        raise ValueError("its brackets nest too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from None


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names something twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"it holds {constant}")
