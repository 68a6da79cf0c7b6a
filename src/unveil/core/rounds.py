"""Several rounds of one client: what it keeps back between them, and the mean of what it sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

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


def mean_of(sent: Sequence[Update]) -> Update:
    """Return the mean of what was sent in all rounds; an entry counts as sent if it was in any round."""
    names = sent[0].tensors
    tensors = {name: torch.stack([one.tensors[name] for one in sent]).mean(0) for name in names}
    masks: dict[str, Bool[Tensor, " ..."]] = {}
    for name in names:
        found = [one.sent(name) for one in sent]
        if all(mask is not None for mask in found):
            masks[name] = torch.stack([mask for mask in found if mask is not None]).any(0)
    coding = replace(sent[-1].coding, sparse=bool(masks))
    return Update(tensors, coding, masks or None, rounds=tuple(sent))
