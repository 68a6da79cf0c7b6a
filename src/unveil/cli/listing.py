"""The entries of `unveil list`: every component that a string can name, from its catalogue and docstring."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unveil import attacks, enhancers, metrics, obfuscations
from unveil.clients import models, training
from unveil.core.metric import MetricFacts
from unveil.core.registry import settings_of
from unveil.core.third_parties import find, installed


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One component.

    Args:
        kind: The name of its catalogue, such as `obfuscations`.
        name: Its name in strings.
        summary: The first sentence of its documentation.
        settings: Setting -> its default as in a SPEC; None for a setting without a default.
    """

    kind: str
    name: str
    summary: str
    settings: Mapping[str, str | None]


CATALOGUES: Mapping[str, Mapping[str, Any]] = {
    "models": models.CATALOGUE,
    "trainings": training.CATALOGUE,
    "obfuscations": obfuscations.CATALOGUE,
    "attacks": attacks.CATALOGUE,
    "enhancers": enhancers.CATALOGUE,
    "metrics": metrics.FACTS,
}


def entries(kind: str | None = None) -> list[Entry]:
    """The components of one kind, or of all, those of other installed packages included.

    Args:
        kind: A key of `CATALOGUES`; None for all.

    Raises:
        UsageError: A package declares a name that is taken, or a component that cannot be imported.
    """
    catalogues = {group: {**own, **_others(group, own)} for group, own in CATALOGUES.items() if kind in (None, group)}
    return [
        Entry(
            kind=group,
            name=name,
            summary=_summary(component),
            settings={} if isinstance(component, MetricFacts) else _settings(component),
        )
        for group, catalogue in catalogues.items()
        for name, component in catalogue.items()
    ]


def _others(group: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The components of other installed packages by their short names."""
    one = group.removesuffix("s")
    return {name: find(one, own, name) for name in installed(one, own)}


def _summary(component: str | MetricFacts | type | Callable[..., Any]) -> str:
    """What a metric says of itself, the text of a component that is one, or the first sentence of its docstring."""
    if isinstance(component, str):
        return component
    if isinstance(component, MetricFacts):
        needs = metrics.NEEDS.get(component.name)
        return (
            f"{component.heading}: {component.description or 'not described'}; "
            f"{'higher' if component.leak == 'high' else 'lower'} means that more came back"
            f"{(needs and f'; needs {needs} in [metrics]') or ''}."
        )
    first, _, _ = (inspect.getdoc(component) or "").partition("\n\n")
    sentence, _, _ = " ".join(first.split()).partition(". ")
    return sentence.rstrip(".") + "."


def _settings(component: Any) -> dict[str, str | None]:
    """Setting -> default; empty for a component that is no dataclass."""
    if not dataclasses.is_dataclass(component):
        return {}
    return {item.name: _default(item) for item in settings_of(component) if item.init}


def _default(item: dataclasses.Field[Any]) -> str | None:
    """The default as a SPEC writes it; None where there is none."""
    if item.default_factory is not dataclasses.MISSING:
        return str(item.default_factory())
    if item.default is dataclasses.MISSING:
        return None
    if isinstance(item.default, bool) or item.default is None:
        return str(item.default).lower()
    return f"{item.default:g}" if isinstance(item.default, float) else str(item.default)
