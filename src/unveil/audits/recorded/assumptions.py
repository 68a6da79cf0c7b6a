"""From the facts of a manifest to what an attacker assumes: local training, obfuscation, a sentence for each gap."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypedDict

from unveil import obfuscations
from unveil.captures.manifest import Manifest
from unveil.captures.recording import Recording
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.errors import UsageError
from unveil.core.loss import LOSSES, LossName, Reduction
from unveil.core.network import Mode
from unveil.core.protocols import BufferSetting, LocalTraining, Obfuscation
from unveil.obfuscations.sign import Sign

PLAIN = ("sgd",)
"""Optimisers that unveil's clients have."""

SIGNS = ("adam", "adamw")
"""Optimisers whose first step moves each entry by the learning rate, wherever its gradient is not tiny."""


MOST_STEPS = 1_000
"""Most local steps that an attacker simulates; every step of the attack takes all of them."""


@dataclass(frozen=True, kw_only=True)
class AssumedTraining:
    """The local training that an attacker assumes.

    Args:
        training: The local training; one gradient if the recording does not say enough.
        scale: Whether the update is as long as this training makes it.
        obfuscation: What the client's optimiser makes of the gradient; None for nothing that an obfuscation could say.
        notes: What was assumed, a sentence each.
    """

    training: LocalTraining
    scale: bool
    obfuscation: Obfuscation | None = None
    notes: tuple[str, ...] = ()


def training_of(recording: Recording, *, pictures: int, has_buffers: bool) -> AssumedTraining:
    """Return the local training that the facts of a recording describe.

    Args:
        recording: The recorded update.
        pictures: Number of the client's pictures.
        has_buffers: Whether the update holds changes of the network's buffers.

    Raises:
        UsageError: Facts contradict one another.
    """
    facts = recording.manifest
    mode: Mode = "train" if facts.mode.value == "train" or (facts.mode.value is None and has_buffers) else "eval"
    buffers: BufferSetting = "kept"
    if has_buffers:
        buffers = "obfuscated" if facts.buffers.value == "obfuscated" else "sent"
    notes = [] if facts.mode.value else [f"The recording does not say the network's mode: {mode} mode is assumed."]
    if recording.gradient:
        training = FedSGD(mode=mode, buffers=buffers, **_loss(facts), **_clipping(facts))
        return AssumedTraining(training=training, scale=True, notes=tuple(notes))
    optimiser = facts.optimiser.value or ""
    if optimiser.lower() in SIGNS and facts.loss.value != "other" and _is_one_step(facts, pictures):
        taken = f"One step of {optimiser} sends little but the signs of the gradient, and is taken for them."
        training = FedSGD(mode=mode, buffers=buffers, **_loss(facts))
        return AssumedTraining(training=training, scale=False, obfuscation=Sign(), notes=(*notes, taken))
    reason = _cannot_be_simulated(facts, pictures)
    if reason:
        return AssumedTraining(
            training=FedSGD(mode=mode, buffers=buffers), scale=False, notes=(*notes, f"{reason}: {_TAKEN}.")
        )
    return _several_steps(facts, pictures, mode, buffers, notes)


_TAKEN = "the update is taken for one gradient of unknown length"


def _cannot_be_simulated(facts: Manifest, pictures: int) -> str:
    """Return why the facts do not describe a local training that can be simulated; empty if they do."""
    optimiser = facts.optimiser.value
    if optimiser is not None and optimiser.lower() not in PLAIN:
        return f"The client's optimiser is {optimiser}, which unveil does not simulate"
    if facts.loss.value == "other":
        return f"The client's loss is another one than {', '.join(LOSSES)}, which are all that unveil simulates"
    steps = facts.steps.value or (facts.epochs.value or 0) * _steps_an_epoch(facts, pictures)
    if steps > MOST_STEPS:
        return f"The client took {steps:,} local steps, and at most {MOST_STEPS:,} are simulated"
    missing = [] if facts.learning_rate.value is not None else ["learning rate"]
    missing += [] if facts.steps.value or facts.epochs.value else ["number of steps"]
    return f"The recording does not say the {' and '.join(missing)}" if missing else ""


def _several_steps(
    facts: Manifest, pictures: int, mode: Mode, buffers: BufferSetting, notes: list[str]
) -> AssumedTraining:
    size, steps, epochs = facts.batch_size.value, facts.steps.value, facts.epochs.value
    if steps and epochs and size and steps != epochs * _steps_an_epoch(facts, pictures):
        raise UsageError(
            f"recorded update: {steps} steps are not {epochs} epochs of {pictures} pictures in batches of {size}; "
            "correct steps, epochs, batch_size or examples with --fact"
        )
    if size is None:
        notes.append("The recording does not say the batch size: every step is taken to have all pictures.")
    elif size < pictures:
        notes.append("The recording does not say the order of the mini-batches: that of the pictures is assumed.")
    gaps = {"momentum": facts.momentum.value, "weight decay": facts.weight_decay.value}
    absent = [name for name, value in gaps.items() if value is None]
    if facts.optimiser.value is None:
        notes.append("The recording does not say the optimiser: SGD is assumed.")
    if absent:
        notes.append(f"The recording does not say the {' and the '.join(absent)}: none is assumed.")
    try:
        training = FedAvg(
            steps=steps,
            epochs=None if steps else epochs,
            lr=facts.learning_rate.value or 0.0,
            batch_size=size if size is not None and size < pictures else None,
            drop_last=bool(facts.drop_last.value) and size is not None and size < pictures,
            momentum=facts.momentum.value or 0.0,
            dampening=facts.dampening.value or 0.0,
            nesterov=bool(facts.nesterov.value),
            weight_decay=facts.weight_decay.value or 0.0,
            mode=mode,
            buffers=buffers,
            **_loss(facts),
            **_clipping(facts),
        )
    except UsageError as error:
        raise UsageError(f"recorded update: {error}; correct what it says with --fact") from None
    return AssumedTraining(training=training, scale=True, notes=tuple(notes))


def _is_one_step(facts: Manifest, pictures: int) -> bool:
    """Return whether the client took one step, on all of its pictures."""
    size, steps = facts.batch_size.value or pictures, facts.steps.value
    return size >= pictures and (steps == 1 or (steps is None and facts.epochs.value == 1))


def _steps_an_epoch(facts: Manifest, pictures: int) -> int:
    """Return the number of mini-batches of one epoch."""
    size = facts.batch_size.value or pictures
    if facts.drop_last.value and size > pictures:
        raise UsageError(
            f"recorded update: with drop_last {pictures} pictures give no mini-batch of {size}; correct drop_last, "
            "batch_size or examples with --fact"
        )
    return pictures // size if facts.drop_last.value else -(-pictures // size)


class _Loss(TypedDict):
    """The settings of a local training's loss."""

    loss: LossName
    reduction: Reduction
    label_smoothing: float


def _loss(facts: Manifest) -> _Loss:
    """Return what the facts say of the loss; the plain mean where they say nothing."""
    return {
        "loss": next((name for name in LOSSES if name == facts.loss.value), "cross_entropy"),
        "reduction": "sum" if facts.loss_reduction.value == "sum" else "mean",
        "label_smoothing": facts.label_smoothing.value or 0.0,
    }


class _Clipping(TypedDict, total=False):
    """The settings of a local training's DP-SGD."""

    clip: float
    noise: float
    expected: float | None


def _clipping(facts: Manifest) -> _Clipping:
    """Return what the facts say of DP-SGD; nothing if gradients of examples were not clipped."""
    if facts.clip.value is None:
        return {}
    # A sum is not divided by anything.
    expected = None if facts.loss_reduction.value == "sum" else facts.expected.value
    return {"clip": facts.clip.value, "noise": facts.noise.value or 0.0, "expected": expected}


def obfuscation_of(manifest: Manifest) -> Obfuscation | None:
    """Return the obfuscation that a manifest names, one of unveil's own; None if it is unknown.

    A file must not lead to code, so a class of another package is refused even where it is installed.

    Raises:
        UsageError: The SPEC names something else, or a setting does not fit.
    """
    spec = manifest.obfuscation.value
    if spec is None:
        return None
    for stage in re.split(r"\+(?=\s*[A-Za-z_])", spec):
        name = stage.strip().partition(":")[0]
        if name not in obfuscations.CATALOGUE:
            raise UsageError(
                f"recorded update: its obfuscation {spec!r} has a stage {name!r}, which is none of unveil's own; leave "
                "it unknown with --fact obfuscation=unknown"
            )
    return obfuscations.parse(spec)
