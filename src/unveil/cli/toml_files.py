"""A TOML file of the user's with the overrides of its variant and of the command line, and what messages call it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unveil.cli.schema import refuse_renamed
from unveil.core.errors import UsageError, nearest
from unveil.core.files import MIB, read_bytes, reason_of, shown
from unveil.core.registry import toml_value

LARGEST = 16 * MIB  # of a file


def overridden(path: Path, overrides: Sequence[str], variant: str | None) -> dict[str, Any]:
    """The file as TOML, with the overrides of its variant and of the command line."""
    data = _read(path)
    variants = data.pop("variant", {})
    if variant is not None:
        for key, value in _chosen(path, variants, variant).items():
            _set(data, key, value, f"{path}, variant {variant}, {key}")
    for override in overrides:
        _override(data, override)
    return data


def source_of(path: Path, overrides: Sequence[str]) -> str:
    """What the messages name: the file and its overrides."""
    return " with ".join([str(path), *(f"--set {override}" for override in overrides)])


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the source before the message of a `UsageError`."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None


def beside(folder: Path, path: str) -> str:
    """A path of the audit file, relative to its folder."""
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path!r}: {str(error).rstrip('.').lower()}; write the path in full") from None
    if "\0" in path:
        raise UsageError(f"{path!r} holds a null character, as no path does; correct it")
    return str(folder / found)


def _read(path: Path) -> dict[str, Any]:
    """The file as TOML."""
    absent = f"write one to start from with `unveil init {shown(path)}`"
    content = read_bytes(path, "", fix="give a TOML file", absent=absent, most=LARGEST)
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown(path)} is not TOML: {reason_of(error)}; correct it there") from None


def _chosen(path: Path, variants: Any, name: str) -> dict[str, Any]:
    """The overrides of the variant `name`."""
    there = variants if isinstance(variants, dict) else {}
    if not isinstance(there.get(name), dict):
        wanted = nearest(name, list(there)) if there else "it has none; drop --variant"
        raise UsageError(f"{path} has no variant {name!r}; {wanted}")
    found: dict[str, Any] = there[name]
    return found


def _override(data: dict[str, Any], text: str) -> None:
    """Apply one `KEY=VALUE` of `--set` in place."""
    key, equals, raw = text.partition("=")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # the command line held bytes that are not UTF-8
        raise UsageError(f"--set {shown(text)}: expected UTF-8; rename the file or the value")
    if not equals:
        raise UsageError(f"--set {text}: expected KEY=VALUE, such as attack.0.steps=50")
    _set(data, key.strip(), toml_value(raw.strip()), f"--set {text}")


def _set(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set one value in place; dots in the key part tables, and tables of a list are numbered from 0.

    A table that the file does not have is made, and so is the next table of a list.
    """
    *parents, last = key.split(".")
    with naming(where):
        refuse_renamed(parents[:1] or [last])
    place: Any = data
    for part, inner in zip(parents, key.split(".")[1:], strict=True):
        try:
            place = _table(place, part, of_list=inner.isdecimal())
        except (KeyError, IndexError, ValueError, TypeError):
            raise UsageError(
                f"{where}: the file has no {part!r} there; write KEY as in attack.0.steps, counting from 0"
            ) from None
    if not isinstance(place, dict):
        raise UsageError(f"{where}: {'.'.join(parents)} is not a table; write KEY as in attack.0.steps")
    place[last] = value


def _table(place: Any, part: str, *, of_list: bool) -> Any:
    """The table or list under one part of a key; an empty one is made if it is missing.

    Args:
        place: The table or list that holds it.
        part: Its key, or its number in a list, which may be the next one.
        of_list: Whether a missing one is a list of tables.
    """
    if isinstance(place, list):
        number = _number(part)
        if number == len(place):
            place.append({})
        return place[number]
    if isinstance(place, dict):
        return place.setdefault(part, [] if of_list else {})
    raise TypeError(part)


def _number(part: str) -> int:
    """The number of a table in a list; negative numbers are refused."""
    if not (part.isascii() and part.isdecimal()):
        raise ValueError(part)
    return int(part)
