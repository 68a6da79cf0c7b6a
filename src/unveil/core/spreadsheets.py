"""Flat records as CSV that spreadsheets and data frames read."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

Cell = str | int | float | bool | None

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""Starts of a text that a spreadsheet takes for a formula and runs."""


def csv_of(records: Sequence[Mapping[str, Cell]]) -> bytes:
    """The records as CSV in UTF-8 with a byte-order mark, without which spreadsheets misread letters beyond ASCII.

    Args:
        records: One for each line, all with the same keys. None is an empty cell. A text that a spreadsheet would run
            as a formula, because names may come from anybody, gets a `'` before it.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([_harmless(key) for key in records[0]] if records else [])
    writer.writerows([_harmless(value) for value in record.values()] for record in records)
    return text.getvalue().encode("utf-8-sig", errors="backslashreplace")


def _harmless(value: Cell) -> Cell:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
