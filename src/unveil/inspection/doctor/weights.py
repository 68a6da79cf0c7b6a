"""Stale global weights: is the update one that the recorded weights could have made at all?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from unveil.core.types import Tensors
from unveil.inspection.doctor.buffers import passes
from unveil.inspection.doctor.dropout import has_dropout
from unveil.inspection.doctor.evidence import SPARSIFIERS, Evidence
from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.faults import Fault, Findings, Untold
from unveil.inspection.doctor.mode import cosine

STALE = "stale global weights"

LEAST = 32
"""Fewest entries of a tensor that arrived and are compared."""
ALIKE = 0.5
"""Least cosine of a tensor between rehearsals; tensors that depend more on the pictures say too little."""
ALIKE_IF_SPARSE = 0.8
"""The same behind a sparsifier, which chose the entries by what they are in the update itself."""
UNLIKE = 0.3
"""Share of that cosine below which no tensor lies at the right weights, where some have 0.4 and most 0.7 or more."""
COMPARED = 5
"""Tensors that are compared, those most alike between rehearsals."""
STEPS = 8
"""Most local steps; later steps are gradients at other weights."""


def weights(evidence: Evidence) -> Findings:
    """Compare the update with rehearsals of it: its last layer's slopes, pulled back through the recorded weights.

    The gradient of biases and late layers depends on the weights far more than on the pictures.
    """
    examined = evidence.examined
    counted = passes(examined)
    if examined.recording.client and examined.steps is not None and counted is not None and counted > examined.steps:
        yield Fault(
            name=STALE,
            severity="error",
            evidence=f"BatchNorm's counters went up by {counted} from global/ to client/, and the manifest says "
            f"{examined.steps} steps",
            fix="record the weights that the client got in this round as global/",
            instead=(f"the client took {counted} steps: steps={counted}",),
        )
        return
    if evidence.cannot_rehearse:
        yield Untold(name=STALE, reason=evidence.cannot_rehearse)
        return
    if examined.mode == "train" and has_dropout(examined):
        yield Untold(name=STALE, reason="dropout changes the gradient as much as other weights would")
        return
    if (examined.steps or 1) > STEPS:
        yield Untold(name=STALE, reason=f"after more than {STEPS} steps gradients are those of other weights")
        return
    compared = [one for one in (_compared(examined, evidence.in_train), _compared(examined, evidence.in_eval)) if one]
    if not compared:
        reason = evidence.head if isinstance(evidence.head, str) else "every layer depends more on the pictures"
        yield Untold(name=STALE, reason=reason)
        return
    best = max(compared, key=lambda one: one.left)
    if best.left < UNLIKE:
        yield Fault(
            name=STALE,
            severity="error",
            evidence=f"the update of {best.name!r} has a cosine of {best.found:.2f} with rehearsals at the weights of "
            f"global/, which have {best.usual:.2f} with one another; no one of {best.layers} layers is more alike",
            fix="record the weights that the client got in this round as global/",
            instead=("the network behaves in another way than the client's, with the same names and shapes",),
        )


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How like an update is to rehearsals of it.

    Args:
        name: The tensor that is most like them.
        found: Its cosine with them.
        usual: Their cosine with one another.
        layers: Number of tensors that were compared.
    """

    name: str
    found: float
    usual: float
    layers: int

    @property
    def left(self) -> float:
        """The cosine in units of that between rehearsals."""
        return self.found / self.usual


def _compared(examined: Examined, rounds: Sequence[Tensors]) -> Likeness | None:
    """Compare an update with rehearsals; None if no tensor is alike between them."""
    if len(rounds) < 2:
        return None
    classes = examined.facts.classes.value or 0
    arrived = {
        name: change != 0 if SPARSIFIERS & set(examined.stages) else torch.ones_like(change, dtype=torch.bool)
        for name, change in examined.sent.items()
        if name in rounds[0] and change.dim() and change.shape[0] != classes and bool(change.any())
    }
    sent = [{name: one[name][mask] for name, mask in arrived.items() if int(mask.sum()) >= LEAST} for one in rounds]
    usual = {
        name: mean(cosine(one[name], other[name]) for at, one in enumerate(sent) for other in sent[:at])
        for name in sent[0]
    }
    least = ALIKE_IF_SPARSE if SPARSIFIERS & set(examined.stages) else ALIKE
    names = sorted((name for name in usual if usual[name] >= least), key=lambda name: -usual[name])[:COMPARED]
    if not names:
        return None
    found = {name: abs(mean(cosine(examined.sent[name][arrived[name]], one[name]) for one in sent)) for name in names}
    best = max(names, key=lambda name: found[name] / usual[name])
    return Likeness(name=best, found=found[best], usual=usual[best], layers=len(names))
