"""Evidence that several checks read, each computed once: last layer, gains, rehearsals of the update."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from unveil.attacks.dead_leaves import dead_leaves
from unveil.core.errors import UsageError
from unveil.core.network import Mode, in_mode, run, users_code
from unveil.core.types import Images, Tensors
from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.gain import MOST_DRIFT, MOST_MOVED, MOST_PICTURES, Gains, gains
from unveil.inspection.doctor.head import HeadEvidence, head_evidence

ROUNDS = 3
"""Rehearsals of each mode."""
SPARSIFIERS = frozenset({"topk", "randomk"})
"""Obfuscations that send few entries."""
MOST = 16
"""Most pictures of a rehearsal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What checks read of a recorded update beside the update itself.

    Args:
        examined: The recorded update.
    """

    examined: Examined

    @cached_property
    def head(self) -> HeadEvidence | str:
        """What the last layer says; a clause that says why not if it cannot be read."""
        return head_evidence(self.examined)

    @cached_property
    def gains(self) -> Gains | str:
        """The likelihood of every length, in units of the manifest's, or the update's own where that is not known."""
        head = self.head
        if isinstance(head, str):
            return head
        if head.pictures > MOST_PICTURES:
            return f"with more than {MOST_PICTURES} pictures every length gives whole counts of the classes"
        if SPARSIFIERS & set(self.examined.stages):
            return "too few entries of the last layer arrived"
        if head.drift > MOST_DRIFT or head.moved > MOST_MOVED:
            return "the local steps changed the network and its predictions too much"
        return gains(head, self.examined.length or float(head.slopes.abs().sum()) / 2 or 1.0)

    @cached_property
    def cannot_rehearse(self) -> str:
        """Why an update cannot be rehearsed; empty if it can."""
        examined = self.examined
        if examined.network is None or examined.facts.image_shape.value is None:
            return "it needs the network; name it with --model"
        if not examined.has_weights:
            return "it needs the weights before the round, global/"
        return ""

    @property
    def labels(self) -> Int[Tensor, " n"] | str:
        """Labels of a step, at most `MOST`: the manifest's, or the likeliest counts; a clause if neither is known."""
        said, found = self.examined.facts.labels.value, self.gains
        if said:
            labels = torch.tensor(said)
        elif isinstance(found, str):
            return found
        else:
            labels = torch.repeat_interleave(torch.arange(len(found.best_counts)), found.best_counts)
        size = min(self.examined.batch_size or MOST, MOST)
        return labels[torch.randperm(len(labels), generator=Generator().manual_seed(0))][:size]

    def pictures(self, count: int, seed: int) -> Images:
        """Dead leaves in [0, 1], before any normalisation."""
        shape = self.examined.facts.image_shape.value
        assert shape is not None
        generator = Generator().manual_seed(seed)
        leaves = dead_leaves(count, shape, generator=generator)
        contrast = 0.5 + torch.rand((count, 1, 1, 1), generator=generator)
        return ((leaves - 0.5) * contrast + 0.5).clamp(0, 1)

    @cached_property
    def in_train(self) -> tuple[Tensors, ...]:
        """Rehearsals in train mode, with the mean of what the network draws by chance."""
        return self._rehearsed("train")

    @cached_property
    def in_eval(self) -> tuple[Tensors, ...]:
        """Rehearsals in eval mode."""
        return self._rehearsed("eval")

    @property
    def rehearsals(self) -> tuple[Tensors, ...]:
        """Those of the mode that an audit assumes."""
        return self.in_train if self.examined.mode == "train" else self.in_eval

    def _rehearsed(self, mode: Mode) -> tuple[Tensors, ...]:
        """Pull the last layer's slopes back through the network, on public pictures; nothing if that fails.

        No label is needed: the update's own slopes stand for those of the loss, with its sign and length.
        """
        examined, head = self.examined, self.head
        if self.cannot_rehearse or examined.network is None or isinstance(head, str):
            return ()
        client, size = in_mode(examined.network, mode), max(min(examined.batch_size or MOST, MOST), 2)
        found = []
        for seed in range(ROUNDS):
            weights = {n: p.detach().requires_grad_() for n, p in client.named_parameters() if p.is_floating_point()}
            try:
                with torch.enable_grad():
                    scores = run(client, examined.normalised(self.pictures(size, seed)), weights, draws=None)
                    total = (scores.mean(0) * head.slopes.to(scores)).sum()
                with users_code("model: its backward"):
                    slopes = torch.autograd.grad(
                        total, list(weights.values()), allow_unused=True, materialize_grads=True
                    )
            except UsageError:
                return ()
            found.append(dict(zip(weights, slopes, strict=True)))
        return tuple(found)
