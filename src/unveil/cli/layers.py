"""The key `layers` of an audit file: which layers are sent, as SPECs of `layers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unveil.cli.schema import quoted
from unveil.clients.client import Client
from unveil.core.errors import UsageError
from unveil.obfuscations.layer_groups import layer_groups
from unveil.obfuscations.layers import NOT

EACH = "each"


def choices_of(given: Any, clients: Sequence[Client]) -> list[str]:
    """Return the obfuscations.

    Args:
        given: A list of choices, such as `head`, `no-head` and `bias`, or `each`: the head and every block of the
            network, each sent alone, and each kept back alone.
        clients: The clients of the audit, whose networks are divided.

    Raises:
        UsageError: It is neither, or the networks are not divided alike.
    """
    if isinstance(given, list) and all(isinstance(choice, str) for choice in given):
        return [f"layers:send={choice}" for choice in given]
    if given != EACH:
        raise UsageError(
            f'layers: expected "{EACH}", or a list of what is sent, got {quoted(given)}; write '
            'layers = ["head", "no-head", "bias"]'
        )
    first, *others = clients
    groups = _groups(first)
    for client in others:
        if _groups(client) != groups:
            raise UsageError(
                f'layers = "{EACH}": the networks of {first.name} and {client.name} have other blocks; give each an '
                "audit file of its own, or name what is sent in a list"
            )
    if len(groups) < 2:
        raise UsageError(f'layers = "{EACH}": the network of {first.name} is one head; leave layers out')
    return [f"layers:send={choice}" for group in groups for choice in (group, NOT + group)]


def _groups(client: Client) -> list[str]:
    return layer_groups(client.model, client.batch, client.training)
