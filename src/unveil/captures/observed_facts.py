"""From what was observed of a client's training to facts of a manifest; what is not clear stays unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from unveil.captures.facts import UNKNOWN, Fact
from unveil.captures.manifest import KINDS
from unveil.captures.observing import Step, TrainedBatch

T = TypeVar("T")

AGREES = 1e-3
"""Relative difference up to which the weight of a picture in the loss is that of a mean or a sum."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The distinct pictures of a client, in the order in which training first met them.

    Args:
        labels: What tells each picture apart -> its class index; None where the loss does not tell it.
        passes: How often each was trained on; None if some were met more often than others.
    """

    labels: Mapping[bytes, int | None]
    passes: int | None


def facts_of(steps: Sequence[Step]) -> dict[str, Fact[Any]]:
    """Return the facts that the steps of a client's training show, by name; labels are not among them.

    Args:
        steps: What an `Observer` saw, in order; there may be none.
    """
    batches = [batch for step in steps for batch in step.batches]
    seen = seen_of(steps)
    size = _batch_size(steps)
    examples = len(seen.labels) if seen.passes is not None else None
    is_whole = examples and size and seen.passes and len(steps) == seen.passes * -(-examples // min(size, examples))
    lows, highs = [batch.input_range[0] for batch in batches], [batch.input_range[1] for batch in batches]
    values = {
        "model": _common(batches, lambda batch: batch.model[-200:]),
        "learning_rate": _setting(steps, "lr"),
        "optimiser": _optimiser(steps),
        "momentum": _setting(steps, "momentum"),
        "dampening": _setting(steps, "dampening"),
        "nesterov": _common([group for step in steps for group in step.groups], lambda group: group.get("nesterov")),
        "weight_decay": _setting(steps, "weight_decay"),
        "steps": len(steps) or None,
        "epochs": seen.passes if is_whole else None,
        "batch_size": size,
        "examples": examples,
        "loss": ("cross_entropy" if all(batch.loss for batch in batches) else "other") if batches else None,
        "loss_reduction": _reduction(steps),
        "label_smoothing": _common(batches, lambda batch: batch.loss and batch.loss.label_smoothing),
        "mode": _mode(batches),
        "dropout": _common(batches, lambda batch: batch.dropout),
        "input_range": (min(lows), max(highs)) if batches else None,
        "image_shape": _common(batches, lambda batch: batch.image_shape),
        "classes": _common(batches, lambda b: b.logits[1] if len(b.logits) == 2 and b.logits[1] > 1 else None),
    }
    return {name: fact for name, value in values.items() if (fact := observed_fact(name, value)) is not UNKNOWN}


def observed_fact(name: str, value: Any) -> Fact[Any]:
    """Return a fact that was observed; an unknown one if the value is None, or none that the manifest can have."""
    plain = list(value) if isinstance(value, tuple) else value
    return Fact(value=value, source="observed") if value is not None and KINDS[name].accepts(plain) else UNKNOWN


def buffers_of(steps: Sequence[Step], sent: Iterable[str]) -> str | None:
    """Return whether the buffers of the observed network are among the sent names; None if it has none."""
    own = _common([batch for step in steps for batch in step.batches], lambda batch: batch.buffers)
    if not own:
        return None
    return "sent" if set(own) & set(sent) else "kept"


def seen_of(steps: Sequence[Step]) -> Seen:
    """Return the distinct pictures of all steps."""
    labels: dict[bytes, int | None] = {}
    counts: Counter[bytes] = Counter()
    for batch in (batch for step in steps for batch in step.batches):
        found = [None] * len(batch.keys) if batch.loss is None else batch.loss.labels.tolist()
        for key, label in zip(batch.keys, found, strict=False):
            labels.setdefault(key, label)
        counts.update(batch.keys)
    times = set(counts.values())
    return Seen(labels=labels, passes=times.pop() if len(times) == 1 else None)


def _common(items: Iterable[Any], of: Callable[[Any], T | None]) -> T | None:
    """Return the value that all items share; None if they differ or there are none."""
    found = [of(item) for item in items]
    return found[0] if found and all(value == found[0] for value in found) else None


def _setting(steps: Sequence[Step], name: str) -> float | None:
    """Return a setting of the optimiser that is the same in all steps and groups of parameters."""
    value = _common([group for step in steps for group in step.groups], lambda group: group.get(name))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _optimiser(steps: Sequence[Step]) -> str | None:
    """Return the optimiser in words, `sgd` alone only for what its settings say in full."""
    name = _common(steps, lambda step: step.optimiser.rpartition(":")[2].lower())
    if name is None:
        return None
    groups = [group for step in steps for group in step.groups]
    extras = {
        "maximising": any(group.get("maximize") for group in groups),
        "momentum carried over": any(step.carried for step in steps),
    }
    return ", ".join([name, *(extra for extra, is_there in extras.items() if is_there)])


def _batch_size(steps: Sequence[Step]) -> int | None:
    """Return the pictures of a step, where all steps but the last of each epoch have as many."""
    sizes = [sum(len(batch.keys) for batch in step.batches) for step in steps]
    return max(sizes) if sizes and min(sizes) > 0 and len(set(sizes)) <= 2 else None


def _reduction(steps: Sequence[Step]) -> str | None:
    """Return `mean` or `sum` over the pictures of a step, by their weight in the loss."""
    found = set()
    for step in steps:
        pictures = sum(len(batch.keys) for batch in step.batches)
        weights = [batch.loss.weight if batch.loss else 0.0 for batch in step.batches]
        if not weights:
            return None
        if all(abs(weight * pictures - 1) < AGREES for weight in weights):
            found.add("mean")
        elif all(abs(weight - 1) < AGREES for weight in weights):
            found.add("sum")
        else:
            return None
    return found.pop() if len(found) == 1 else None


def _mode(batches: Sequence[TrainedBatch]) -> str | None:
    modes = {mode for batch in batches for mode in batch.modes}
    return ("train" if modes.pop() else "eval") if len(modes) == 1 else None
