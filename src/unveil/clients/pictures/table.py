"""Reading labels from a CSV file that a spreadsheet or a data frame wrote; errors name the line."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unveil.clients.pictures.folders import Listing, contents
from unveil.core.errors import UsageError, nearest
from unveil.core.files import MIB, is_regular, quoted, read_bytes, shown

MOST_CLASSES = 1_000_000
MOST_BYTES = 256 * MIB
DELIMITERS = ",;\t|"
COLUMNS = ("file", "label")
SHORT = 60  # most characters of a value in a message


@dataclass(frozen=True)
class _Row:
    """One row of the table, and the number of its first line in the file."""

    line: int
    file: str
    label: str


def by_table(folder: Path, labels_csv: Path) -> Listing:
    """List the pictures that a CSV file names, with its labels.

    The first line has the names of the columns, in any case and order; columns other than `file` and `label` are
    ignored. Columns are separated by a comma, semicolon, tab or bar. Blank lines are skipped. The text is UTF-8, or
    UTF-16 with a byte-order mark.

    Args:
        folder: Folder to which the paths of the files are relative. A path may not lead outside it, except by a link.
        labels_csv: The CSV file. Its labels are class indices, or class names if any of them is not a number.

    Raises:
        UsageError: The table cannot be read, or one of its lines cannot be used.
    """
    where = quoted(labels_csv)
    rows, seen = [], dict[str, _Row]()
    for row in _rows(where, _text(labels_csv)):
        file, place = _inside(where, folder, row)
        before = seen.setdefault(place, row)
        if before is not row:
            raise UsageError(
                f"{where}, line {row.line}: {row.file!r} stands in line {before.line} too, there with the label "
                f"{_short(before.label)}; keep one of the two lines"
            )
        rows.append((file, row))
    if not rows:
        raise UsageError(f"{where} names no pictures; add a line file,label for each")
    labels, names = _numbered(where, [row for _, row in rows])
    notes: tuple[str, ...] = ()
    if min(labels) > 0:
        notes = (f"The labels begin at {min(labels)}: no picture has a smaller one, though classes count from 0.",)
    return Listing(files=[file for file, _ in rows], labels=labels, class_names=names, notes=notes)


def _text(path: Path) -> str:
    """Read the file and decode its text."""
    content = read_bytes(path, "labels", fix="name a CSV file in UTF-8", most=MOST_BYTES)
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # some spreadsheets call UTF-16 "Unicode text"
            return content.decode("utf-16")
        return content.decode("utf-8-sig")  # some programs write a byte-order mark in UTF-8 too
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(
            f"cannot read {quoted(path)}, line {line}: byte {content[error.start]:#04x} is not "
            f"{error.encoding}; save it as CSV in UTF-8"
        ) from None


def _rows(where: str, text: str) -> Iterator[_Row]:
    """Yield the rows of the table; `where` is the start of every message."""
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep="):  # a line that only one spreadsheet program reads
        text = f"\n{rest}"
    header = next((line for line in io.StringIO(text, newline=None) if line.strip()), "").strip("\n")
    for delimiter in DELIMITERS:
        titles = [title.strip().strip('"').strip().lower() for title in header.split(delimiter)]
        if set(COLUMNS) <= set(titles):
            break
    else:
        wide = " (it looks like UTF-16; save it in UTF-8)" if "\0" in header else ""
        raise UsageError(
            f"{where}: expected the header file,label, got {_short(header, marks=False) or 'nothing'}{wide}; "
            "make that its first line"
        )
    for title in COLUMNS:
        if titles.count(title) > 1:
            raise UsageError(f"{where}: the header names {title} {titles.count(title)} times; keep one such column")
    records = _records(where, text, delimiter)
    next(records)
    columns = [titles.index(title) for title in COLUMNS]
    for line, fields in records:
        file, label = (fields[column] if column < len(fields) else "" for column in columns)
        if not file or not label:
            raise UsageError(f"{where}, line {line}: expected file,label; fill in both")
        yield _Row(line, file, label)


def _records(where: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each record's first line and its fields; blank records are left out."""
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = [field.strip() for field in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(
                f"{where}, line {line}: {error}; close every quote, and double those inside a value"
            ) from None
        if any(fields):
            yield line, fields


def _inside(where: str, folder: Path, row: _Row) -> tuple[Path, str]:
    """Return the file of a row, and its absolute path as text, which is the same for two rows of the same file."""
    name = row.file
    if "\\" in name and not is_regular(folder / name):  # the separator of Windows paths
        name = name.replace("\\", "/")
    base, place = os.path.abspath(folder), os.path.abspath(folder / name)
    if not Path(place).is_relative_to(base):
        raise UsageError(
            f"{where}, line {row.line}: {_short(name)} is not inside {quoted(folder)}; put the picture there, and "
            "write its path from there"
        )
    if not is_regular(Path(place)):
        present = [path.name for path in contents(folder).pictures]
        same = [f"did you mean {quoted(other, SHORT)}?" for other in present if other.lower() == name.lower()]
        known = [nearest(name[:SHORT], present)] if len(present) in range(1, 9) else []
        hint = (same + known + ["check the name"])[0]
        raise UsageError(f"{where}, line {row.line}: no file {_short(name)} in {quoted(folder)}; {hint}")
    return Path(place), place


def _numbered(where: str, rows: Sequence[_Row]) -> tuple[list[int], tuple[str, ...]]:
    """Return the class index of each row, and the class names; classes given by name are numbered in sorted order."""
    numbers = [_number(row.label) for row in rows]
    if None in numbers:
        names = sorted({row.label for row in rows})
        places = {name: place for place, name in enumerate(names)}
        return [places[row.label] for row in rows], tuple(names)
    labels = []
    for row, number in zip(rows, numbers, strict=True):
        if number is None or number != number or not float(number).is_integer():
            raise UsageError(
                f"{where}, line {row.line}: label {_short(row.label)} is no whole number; write class indices, or names"
            )
        if not 0 <= number < MOST_CLASSES:
            raise UsageError(
                f"{where}, line {row.line}: label {_short(row.label, marks=False)} is out of range; count classes "
                "from 0"
            )
        labels.append(int(number))
    return labels, tuple(str(index) for index in range(max(labels) + 1))


def _number(text: str) -> float | None:
    """Return a label as a number (data frames may write 1.0 for 1); None if it is a name."""
    try:
        return float(text)
    except ValueError:
        return None


def _short(text: str, *, marks: bool = True) -> str:
    """Return a value for a message, in quotes if `marks`."""
    return quoted(text, SHORT) if marks else shown(text, SHORT)
