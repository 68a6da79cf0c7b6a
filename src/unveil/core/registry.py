"""SPEC: the one way in which strings name components, on the command line, in TOML and in JSON.

    none    qsgd:levels=16,norm=max    fedavg:steps=5,lr=0.003    topk:density=0.05+qsgd:levels=16,norm=max

A name, then `:` and the constructor's settings; `+` joins the stages of a pipeline. `spec_of` prints the settings that
differ from the defaults, so that ``parse(str(component)) == component``.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from typing import Any, get_type_hints

from unveil.core.errors import UsageError, nearest


def spec_of(component: Any) -> str:
    """The SPEC that builds this component; every catalogued class uses it as its `__str__`."""
    settings = []
    for item in dataclasses.fields(component):
        value = getattr(component, item.name)
        if value != item.default:
            settings.append(f"{item.name}={_printed(value)}")
    name: str = component.name
    return name + (":" + ",".join(settings) if settings else "")


def split(kind: str, text: str) -> tuple[str, dict[str, str]]:
    """The name and the settings of a SPEC without `+`.

    Raises:
        UsageError: Something that is not key=value, or a key given twice.
    """
    name, _, rest = text.strip().partition(":")
    settings: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{kind} {text!r}: expected key=value, got {pair!r}")
        if key.strip() in settings:
            raise UsageError(f"{kind} {text!r}: {key.strip()!r} is given twice; keep one of them")
        settings[key.strip()] = value.strip()
    return name, settings


def build(kind: str, catalogue: Mapping[str, type], text: str) -> Any:
    """Build one component from its SPEC.

    Args:
        kind: What is being named, for the error message, such as `obfuscation`.
        catalogue: Name -> class.
        text: A SPEC without `+`.

    Raises:
        UsageError: An unknown name or setting (the nearest valid one is named), or a value that does not fit.
    """
    name, settings = split(kind, text)
    return construct(kind, catalogue, name, settings)


def construct(kind: str, catalogue: Mapping[str, type], name: str, settings: Mapping[str, Any]) -> Any:
    """Build one component from its name and settings, strings or typed values; errors as in `build`."""
    from pydantic import TypeAdapter, ValidationError

    if name not in catalogue:
        raise UsageError(f"unknown {kind} {name!r}; {nearest(name, list(catalogue))}")
    cls = catalogue[name]
    hints = get_type_hints(cls)
    known = {item.name: item for item in dataclasses.fields(cls)}
    values = {}
    for key, value in settings.items():
        if key not in known:
            raise UsageError(
                f"{kind} {name!r} has no setting {key!r}; {nearest(key, list(known))}"
                if known
                else f"{kind} {name!r} has no settings, got {key!r}; write just {name!r}"
            )
        if value == "none":
            value = None
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(value)
            if isinstance(value, bool) and not isinstance(values[key], bool):
                raise UsageError(f"{kind} {name!r}: setting {key}={str(value).lower()} does not fit: give a number")
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise UsageError(f"{kind} {name!r}: setting {key}={value} does not fit: {reason}") from None
    missing = [
        key
        for key, item in known.items()
        if key not in values and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{kind} {name!r} needs {', '.join(missing)}; write {name}:{missing[0]}=…")
    return cls(**values)


def toml_value(raw: str) -> Any:
    """What TOML makes of the text behind an equals sign; the text itself where it is not TOML."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return raw
    return parsed["value"] if len(parsed) == 1 else raw


def _printed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
