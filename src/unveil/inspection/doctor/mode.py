"""Train or eval mode: what the buffers and the layers in front of BatchNorm say beside the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from unveil.core.types import Tensors
from unveil.inspection.doctor.buffers import COUNTER, passes, statistics
from unveil.inspection.doctor.evidence import Evidence
from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.faults import Fault, Findings, Untold

MODE = "mode"

ALIKE = frozenset(
    {
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.Flatten, nn.Identity),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softmax),
        *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    }
)
"""Layers that do the same in both modes."""
ORTHOGONAL = 1e-4
"""Largest cosine between weight and gradient of a layer that counts as scale-invariant: rounding leaves far less."""
TRAIN = 0.05
"""At most this share of the cosines of eval mode is left in train mode, by rounding."""
EVAL = 0.3
"""At least this share of them is there in eval mode; what lies between says nothing."""


@dataclass(frozen=True, kw_only=True)
class Orthogonality:
    """How the update lies to the weights of layers in front of BatchNorm.

    Scaling such a weight changes nothing in train mode, so its gradient is orthogonal to it; in eval mode it is not.

    Args:
        says: The mode that it speaks for; None for neither.
        layers: Number of these layers.
        ratio: Median of |cosine of weight and update|, in units of what rehearsals in eval mode have.
    """

    says: Literal["train", "eval"] | None
    layers: int
    ratio: float


def mode(evidence: Evidence) -> Findings:
    """Compare the mode of the manifest, or that which an audit assumes, with what was sent."""
    examined = evidence.examined
    if examined.network is not None and not _has_modes(examined):
        return
    said = examined.facts.mode.value
    if (steps := steps_counted(examined)) and said == "eval":
        yield Fault(
            name=MODE,
            severity="error",
            evidence=f"the manifest says eval mode, and {steps}, which only train mode does",
            fix="say train mode",
            fact="mode=train",
        )
        return
    found = orthogonality(evidence)
    if isinstance(found, str):
        if not steps:
            yield Untold(name=MODE, reason=found)
        return
    if found.says is None:
        if not steps:
            yield Untold(name=MODE, reason="how the update lies to the weights in front of BatchNorm fits neither mode")
    elif found.says != examined.mode:
        may_be_carried = found.says == "eval" and bool(examined.facts.momentum.value)
        yield Fault(
            name=MODE,
            severity="error",
            evidence=f"the cosine of weights and update in {found.layers} layers in front of BatchNorm is "
            f"{found.ratio:.2g} times that of eval mode, as in {found.says} mode, and "
            + (f"the manifest says {said} mode" if said else f"an audit would assume {examined.mode} mode"),
            fix=f"say {found.says} mode",
            fact=None if may_be_carried else f"mode={found.says}",
            instead=("the optimiser kept its momentum of earlier rounds",) if may_be_carried else (),
        )


def _has_modes(examined: Examined) -> bool:
    """Whether train and eval mode may differ: the network has statistics, dropout or code of its own that asks."""
    assert examined.network is not None
    return any(type(module) not in ALIKE and not list(module.children()) for module in examined.network.modules())


def steps_counted(examined: Examined) -> str:
    """What shows that BatchNorm ran in train mode, in words; empty if nothing does.

    Statistics that noise may have moved do not count; a whole and common number of passes does.
    """
    if (count := passes(examined)) is not None:
        return f"BatchNorm's counters went up by {count}"
    if examined.moved(COUNTER) or examined.facts.buffers.value == "obfuscated":
        return ""
    moved = [name for name, change in statistics(examined).items() if bool(change.any())]
    return f"{len(moved)} running statistics changed" if moved else ""


def orthogonality(evidence: Evidence) -> Orthogonality | str:
    """Measure how the update lies to scale-invariant weights; a clause that says why it cannot be measured."""
    examined = evidence.examined
    if evidence.cannot_rehearse or examined.network is None:
        return evidence.cannot_rehearse
    if not any(name.rpartition(".")[2] == "running_var" for name in examined.buffers):
        return "the network has no BatchNorm, and nothing else shows the mode"
    if not examined.is_exact:
        return "behind this obfuscation the update does not say how it lies to the weights"
    weights = {n: p.detach() for n, p in examined.network.named_parameters() if p.dim() >= 2 and n in examined.sent}
    train, eval_ = evidence.in_train, evidence.in_eval
    names = [name for name in weights if train and _largest(weights[name], train, name) < ORTHOGONAL]
    names = [name for name in names if bool(examined.sent[name].any())]
    usual = {name: _largest(weights[name], eval_, name) for name in names}
    names = [name for name in names if usual[name] > 10 * ORTHOGONAL]
    if not names:
        return "no weight in front of BatchNorm shows the mode"
    ratio = median(_beyond(examined, weights, name) / usual[name] for name in names)
    says: Literal["train", "eval"] | None = "train" if ratio < TRAIN else "eval" if ratio > EVAL else None
    if says == "train" and (examined.steps or 2) > 1:
        straight = median(abs(cosine(weights[name], examined.sent[name])) / usual[name] for name in names)
        says = "train" if straight < EVAL else None
    return Orthogonality(says=says, layers=len(names), ratio=ratio)


def _beyond(examined: Examined, weights: Mapping[str, Float[Tensor, " ..."]], name: str) -> float:
    """|cosine| of weight and change, less what weight decay and several steps may leave of it in train mode."""
    weight, change = weights[name].double(), examined.sent[name].double()
    size, moved = float(weight.norm()), float(change.norm())
    rate, decay = examined.facts.learning_rate.value, examined.facts.weight_decay.value
    steps = examined.steps or 2
    along = float((weight * change).sum())
    if rate and decay and not examined.recording.gradient:
        along += rate * decay * steps * size**2
    # Orthogonal steps grow the weight: of its product with their sum at most the squared length of the sum is left.
    several = moved**2 if steps > 1 and not examined.recording.gradient else 0.0
    return max(abs(along) - several, 0.0) / max(size * moved, 1e-300)


def _largest(weight: Float[Tensor, "*shape"], gradients: Sequence[Tensors], name: str) -> float:
    return max((abs(cosine(weight, one[name])) for one in gradients if name in one), default=0.0)


def cosine(one: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> float:
    """Cosine of two tensors; 0 if one is zero."""
    a, b = one.detach().double().flatten(), other.detach().double().flatten()
    return float(a @ b) / max(float(a.norm() * b.norm()), 1e-300)
