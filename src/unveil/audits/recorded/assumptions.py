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
from unveil.core.network import Mode
from unveil.core.protocols import BufferSetting, LocalTraining, Obfuscation

PLAIN = ("sgd",)
"""Optimisers that unveil's clients have."""


MOST_STEPS = 1_000
"""Most local steps that an attacker simulates; every step of the attack takes all of them."""


@dataclass(frozen=True, kw_only=True)
class AssumedTraining:
    """The local training that an attacker assumes.

    Args:
        training: The local training; one gradient if the recording does not say enough.
        scale: Whether the update is as long as this training makes it.
        divisor: What the update is divided by, so that it is that of a mean loss.
        notes: What was assumed, a sentence each.
    """

    training: LocalTraining
    scale: bool
    divisor: float = 1.0
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
        divisor = float(pictures) if facts.loss_reduction.value == "sum" else 1.0
        return AssumedTraining(
            training=FedSGD(mode=mode, buffers=buffers, **_clipping(facts)),
            scale=True,
            divisor=divisor,
            notes=tuple(notes),
        )
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
        return "The client's loss is not the plain cross-entropy, which is all that unveil simulates"
    steps = facts.steps.value or (facts.epochs.value or 0) * -(-pictures // (facts.batch_size.value or pictures))
    if steps > MOST_STEPS:
        return f"The client took {steps:,} local steps, and at most {MOST_STEPS:,} are simulated"
    missing = [] if facts.learning_rate.value is not None else ["learning rate"]
    missing += [] if facts.steps.value or facts.epochs.value else ["number of steps"]
    return f"The recording does not say the {' and '.join(missing)}" if missing else ""


def _several_steps(
    facts: Manifest, pictures: int, mode: Mode, buffers: BufferSetting, notes: list[str]
) -> AssumedTraining:
    size, steps, epochs = facts.batch_size.value, facts.steps.value, facts.epochs.value
    if steps and epochs and size and steps != epochs * -(-pictures // min(size, pictures)):
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
    each = min(size or pictures, pictures) if facts.loss_reduction.value == "sum" else 1
    if pictures % each:
        raise UsageError(
            f"recorded update: the loss is a sum, and batches of {each} do not divide {pictures} pictures, so that the "
            "last step has another length; correct batch_size or examples with --fact"
        )
    training = FedAvg(
        steps=steps,
        epochs=None if steps else epochs,
        # A sum over a batch is its mean times its size; the decay of the weights does not grow with it.
        lr=(facts.learning_rate.value or 0.0) * each,
        batch_size=size if size is not None and size < pictures else None,
        momentum=facts.momentum.value or 0.0,
        weight_decay=(facts.weight_decay.value or 0.0) / each,
        mode=mode,
        buffers=buffers,
        **_clipping(facts),
    )
    return AssumedTraining(training=training, scale=True, notes=tuple(notes))


class _Clipping(TypedDict, total=False):
    """The settings of a local training's DP-SGD."""

    clip: float
    noise: float
    expected: float | None


def _clipping(facts: Manifest) -> _Clipping:
    """Return what the facts say of DP-SGD; nothing if gradients of examples were not clipped."""
    if facts.clip.value is None:
        return {}
    # A sum, which is not divided by anything, is assumed as a mean that the learning rate makes longer.
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
