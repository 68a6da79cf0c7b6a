"""BatchNorm's buffers: not sent, not changed, or changed by what was meant for parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.faults import Fault, Findings, Untold

MISSING, KEPT, OBFUSCATED = "missing buffers", "kept buffers", "obfuscated buffers"
STATISTICS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"
NEEDS_NETWORK = "it needs the network; name it with --model"


def statistics(examined: Examined) -> dict[str, Shaped[Tensor, " ..."]]:
    """Changes of the running statistics that were sent."""
    return {name: t for kind in STATISTICS for name, t in examined.moved(kind).items()}


def missing_buffers(examined: Examined) -> Findings:
    """Running statistics that the network has and that were not sent, where that is not what the manifest says."""
    said = examined.facts.buffers.value
    sent = statistics(examined)
    if examined.network is None:
        if said in ("sent", "obfuscated") and not sent:
            yield Fault(
                name=MISSING,
                severity="error",
                evidence=f"the manifest says that buffers were {said}, and none was",
                fix="record the whole state_dict, or say that the client keeps its buffers",
                fact="buffers=kept",
            )
        elif not sent:
            yield Untold(name=MISSING, reason=NEEDS_NETWORK)
        return
    own = [name for name in examined.buffers if name.rpartition(".")[2] in STATISTICS]
    absent = [name for name in own if name not in sent]
    if not absent or (said == "kept" and len(absent) == len(own)):
        return
    is_partial = len(absent) < len(own)
    yield Fault(
        name=MISSING,
        severity="error" if is_partial or said is not None else "note",
        evidence=f"{len(absent)} of the network's {len(own)} running statistics were not sent, such as {absent[0]!r}",
        fix="record the whole state_dict"
        + ("" if is_partial else ", or say that the client keeps its buffers; then train mode can only be guessed at"),
        fact=None if is_partial else "buffers=kept",
    )


def kept_buffers(examined: Examined) -> Findings:
    """Running statistics that did not change although the manifest says train mode."""
    sent = statistics(examined)
    if sent and examined.facts.mode.value == "train" and not any(bool(t.any()) for t in sent.values()):
        yield Fault(
            name=KEPT,
            severity="warning",
            evidence=f"the manifest says train mode, and none of the {len(sent)} running statistics changed",
            fix="record the state_dict after local training, not before it, or say that the client keeps its buffers",
            fact="buffers=kept",
            instead=("the client trained in eval mode: mode=eval",),
        )


def obfuscated_buffers(examined: Examined) -> Findings:
    """Running variances that no batch can give: negative, or smaller than what BatchNorm leaves of the old ones."""
    moved = examined.moved("running_var")
    if not moved or examined.facts.buffers.value == "obfuscated":
        return
    after = {name: value for name in moved if (value := examined.after(name)) is not None}
    if not after:
        yield Untold(name=OBFUSCATED, reason="it needs the running variances before the round, global/")
        return
    negative = sum(int(torch.count_nonzero(value < 0)) for value in after.values())
    low = sum(int(torch.count_nonzero(_too_low(examined, name, value))) for name, value in after.items())
    if negative or low:
        total = sum(value.numel() for value in after.values())
        small = f", {low} are smaller than BatchNorm's momentum allows" if low > negative else ""
        yield Fault(
            name=OBFUSCATED,
            severity="error",
            evidence=f"{negative} of {total} running variances are negative{small}; no batch has such a variance",
            fix="noise or clipping was applied to the whole state_dict, as LocalDpMod of Flower does: say so, and keep "
            "buffers out of it in the federation",
            fact="buffers=obfuscated",
        )


LEAST_LEFT = 1e-3
"""Share of the old variance by which a new one may be below its bound: rounding of half precision."""


def _too_low(examined: Examined, name: str, after: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether each variance is below ``(1 - m)^steps`` times the old one, which a batch without any spread leaves."""
    layer, before, steps = momentum_of(examined, name), examined.recording.before.get(name), passes(examined)
    if layer is None or before is None or steps is None:
        return after < 0
    least = before * (1 - layer) ** steps
    return after < least - LEAST_LEFT * before.abs()


def momentum_of(examined: Examined, name: str) -> float | None:
    """Momentum of the layer that keeps a running statistic; None if it is not known, or the average is cumulative."""
    if examined.network is None or name not in examined.buffers:
        return None
    value = getattr(examined.network.get_submodule(name.rpartition(".")[0]), "momentum", None)
    return float(value) if isinstance(value, (int, float)) else None


def passes(examined: Examined) -> int | None:
    """How many forward passes in train mode all counters have; None if they say nothing or no whole number."""
    counts = {float(t) for t in examined.moved(COUNTER).values() if t.numel() == 1}
    count = counts.pop() if len(counts) == 1 else 0.0
    return int(count) if count > 0 and count == int(count) else None


COUNTERS, SIGN = "changed counters", "sign"


def counters(examined: Examined) -> Iterator[Fault | Untold]:
    """Counters of forward passes that no training leaves: not whole, not alike, or still while statistics moved."""
    counts = {name: float(t) for name, t in examined.moved(COUNTER).items() if t.numel() == 1}
    if not counts:
        return
    values = sorted(set(counts.values()))
    statistics_moved = any(bool(t.any()) for t in statistics(examined).values())
    odd = [value for value in values if value < 0 or value != int(value)]
    found = f"{len(counts)} counters changed by {values[0]:g}" + (f" to {values[-1]:g}" if len(values) > 1 else "")
    if len(values) == 1 and values[0] < 0 and values[0] == int(values[0]) and not examined.recording.client:
        yield Fault(
            name=SIGN,
            severity="error",
            evidence=f"{found}, and counters never go down",
            fix="differences are value after minus value before; say that the sign is reversed",
            fact="sign=reversed",
        )
    elif odd or (values == [0.0] and statistics_moved):
        why = "which is no number of steps" if odd else "while the running statistics changed"
        yield Fault(
            name=COUNTERS,
            severity="warning",
            evidence=f"{found}, {why}",
            fix="clipping or noise was applied to whole numbers too, as Flower's clipping mods do: keep counters out "
            "of it in the federation, and say that buffers are obfuscated",
            fact="buffers=obfuscated" if examined.facts.buffers.value != "obfuscated" else None,
        )
    elif passes(examined) is not None and examined.steps not in (None, passes(examined)):
        yield Fault(
            name=COUNTERS,
            severity="warning",
            evidence=f"{found}, and the manifest says {examined.steps} steps",
            fix="correct the number of steps",
            fact=f"steps={passes(examined)}",
            instead=("global/ is of an earlier round", "some forward passes were not for training"),
        )
