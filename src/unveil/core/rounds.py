"""Several rounds of one client: what it keeps back between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unveil.core.types import Tensors
from unveil.core.update import Update


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a client kept back in the rounds so far.

    Args:
        feedback: Whether it adds that to its next update.
        kept: What it kept; None before the first round.
    """

    feedback: bool
    kept: Tensors | None = None

    def added(self, update: Update) -> Update:
        """The update with what was kept."""
        if not self.feedback or self.kept is None:
            return update
        return replace(update, tensors={name: t + self.kept[name] for name, t in update.tensors.items()})

    def after(self, came: Update, sent: Update) -> Memory:
        """The memory after a round."""
        if not self.feedback:
            return self
        return replace(self, kept={name: t - sent.tensors[name] for name, t in came.tensors.items()})
