"""What a peeling that fails raises."""

from __future__ import annotations


class CannotPeelError(Exception):
    """The maps of the network cannot be found from its pooled features; the message says why."""
