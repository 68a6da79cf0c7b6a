"""SPEC: a component and its settings as a string, on the command line, in TOML and in JSON.

    none    qsgd:levels=16,norm=max    fedavg:steps=5,lr=0.003    topk:density=0.05+qsgd:levels=16,norm=max
    mypackage.lowrank:PowerSGD:rank=2

A SPEC is a name, then `:` and the constructor's settings; `+` joins the stages of a pipeline. The name is a key of
unveil's catalogue, `package.module:Class`, or an entry point of an installed package (see `third_parties`). `spec_of`
prints the settings that differ from the defaults, so that ``parse(str(component)) == component``. A class without a
`name` is printed as `package.module:Class`. A field with the metadata `IN_PYTHON_ONLY` is no setting, and no SPEC can
set it. If it differs from its default, the printed form has it after an `@`, so that results tell components apart.
"""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
from collections.abc import Container, Mapping
from typing import Any, get_type_hints

from unveil.core.errors import UsageError, nearest
from unveil.core.kinds import refuse_other_kind
from unveil.core.third_parties import find, refuse_misleading_name
from unveil.core.usercode import running

IN_PYTHON_ONLY: Mapping[str, bool] = {"spec": False}
"""Metadata of a dataclass field that a SPEC cannot set, because its value is too large for a string."""


def settings_of(component: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields of a component, or of its class, that a SPEC can set."""
    return [item for item in dataclasses.fields(component) if item.metadata.get("spec", True)]


def spec_of(component: Any) -> str:
    """Return the SPEC that builds this component; dataclasses use this function as their `__str__`."""
    settings: list[str] = []
    others: list[str] = []
    in_spec = settings_of(component)
    for item in dataclasses.fields(component):
        value = getattr(component, item.name)
        if value != item.default:
            (settings if item in in_spec else others).append(f"{item.name}={_printed(value)}")
    name: str = getattr(component, "name", None) or f"{type(component).__module__}:{type(component).__qualname__}"
    return name + (":" + ",".join(settings) if settings else "") + "".join(f"@{other}" for other in others)


def split(kind: str, text: str, catalogue: Container[str] = ()) -> tuple[str, dict[str, str]]:
    """Split a SPEC without `+` into its name and its settings.

    Args:
        kind: Kind of the component, for the message.
        text: The SPEC.
        catalogue: Names that are followed by settings and not by a class.

    Raises:
        UsageError: A setting is not key=value, or a key is given twice.
    """
    name, _, rest = text.strip().partition(":")
    inside, _, after = rest.partition(":")
    if name not in catalogue and all(part.isidentifier() for part in inside.split(".")):
        name, rest = f"{name}:{inside}", after
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
        kind: Kind of the component, such as `obfuscation`, for the message.
        catalogue: Name -> class.
        text: A SPEC without `+`.

    Raises:
        UsageError: The name or a setting is unknown (the message has the nearest known one), or a value does not fit.
    """
    name, settings = split(kind, text, catalogue)
    return construct(kind, catalogue, name, settings)


def construct(kind: str, catalogue: Mapping[str, type], name: str, settings: Mapping[str, Any]) -> Any:
    """Build one component from its name and its settings, which are strings or typed values; errors as in `build`."""
    from pydantic import TypeAdapter, ValidationError

    own = name in catalogue
    cls = catalogue[name] if own else find(kind, catalogue, name)
    if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)):
        raise UsageError(f"{kind} {name!r} is no dataclass, so its settings are not known; write @dataclass above it")
    hints = get_type_hints(cls)
    known = {item.name: item for item in settings_of(cls)}
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
    if own:
        return cls(**values)
    with running(f"{kind} {name!r}", "correct its settings, or call it in Python to find out why"):
        component = cls(**values)
    refuse_other_kind(kind, f"{kind} {name!r}", component)
    if kind != "metric":  # its name is its key in results
        refuse_misleading_name(kind, catalogue, name, cls)
    return component


def toml_value(raw: str) -> Any:
    """Parse a text as a TOML value; return the text itself if it is none."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return raw
    return parsed["value"] if len(parsed) == 1 else raw


def _printed(value: Any) -> str:
    """Return a setting's value as a SPEC writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
