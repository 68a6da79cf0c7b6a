"""Checks that a component is of a kind: it has the members of the protocol, and its call takes unveil's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from unveil.core.errors import UsageError
from unveil.core.protocols import Attack, Enhancer, LocalTraining, Obfuscation

PROTOCOLS: Mapping[str, type] = {
    "obfuscation": Obfuscation,
    "attack": Attack,
    "enhancer": Enhancer,
    "training": LocalTraining,
}


def refuse_other_kind(kind: str, who: str, component: Any) -> None:
    """Raise a `UsageError` if a component lacks a member of its kind, or if its call takes other arguments.

    Args:
        kind: `metric`, or a key of `PROTOCOLS`; no other kind is checked.
        who: The component's name for the message.
        component: The component.
    """
    if kind == "metric":
        wanted = ["name", "leak", "score"]
    elif kind in PROTOCOLS:
        wanted = [name for name in vars(PROTOCOLS[kind]) if not name.startswith("_")]
    else:
        return
    article = "an" if kind[0] in "aeo" else "a"
    for name in wanted:
        if not hasattr(component, name):
            raise UsageError(
                f"{who} is not {article} {kind}: it has no `{name}`; add it as `unveil.{_protocol(kind)}` describes it"
            )
    if kind in PROTOCOLS and not _takes_the_same(component, PROTOCOLS[kind]):
        raise UsageError(
            f"{who} is not {article} {kind}: its call takes other arguments; write it as in "
            f"`unveil.{_protocol(kind)}.__call__`"
        )


def _protocol(kind: str) -> str:
    """Return the public name of the protocol of a kind."""
    return "Metric" if kind == "metric" else PROTOCOLS[kind].__name__


def _takes_the_same(component: Any, protocol: type) -> bool:
    """Return whether a component can be called with the arguments of its protocol's `__call__`."""
    if not callable(component):
        return False
    _, *parameters = inspect.signature(protocol.__call__).parameters.values()
    given = [None for p in parameters if p.kind is not p.KEYWORD_ONLY]
    named = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(component).bind(*given, **named)
    except (TypeError, ValueError):
        return False
    return True
