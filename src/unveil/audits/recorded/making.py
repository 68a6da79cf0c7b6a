"""Making a recorded client: its network by the user's own factory, and what the manifest says or leaves open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import Module

from unveil.audits.recorded.assumptions import obfuscation_of, training_of
from unveil.audits.recorded.client import RecordedClient
from unveil.audits.recorded.privacy import stated
from unveil.audits.recorded.truth import load_truth
from unveil.captures.conversion import floats, update_of
from unveil.captures.manifest import Manifest
from unveil.captures.naming import named_as
from unveil.captures.recording import Recording
from unveil.clients.models import ModelName, build_model
from unveil.clients.models.checkpoints import Checkpoint, load_into, read_checkpoint
from unveil.clients.models.normalisation import Normalisation, normalised
from unveil.clients.pictures.table import MOST_CLASSES
from unveil.core.errors import UsageError
from unveil.core.files import shown
from unveil.core.network import draws_by_chance
from unveil.core.protocols import Knowledge, Obfuscation, SendsBuffers
from unveil.core.update import Coding, Update
from unveil.inspection.unknown_obfuscation import fingerprinted
from unveil.obfuscations.roles import Sparsifier, Withholding, atoms

MOST_VALUES = 1 << 28
"""Most values in all pictures of a client together, 1 GiB of float32."""


def recorded_client(
    recording: Recording,
    model: str | ModelName,
    *,
    weights: str | None = None,
    truth: str | Path | None = None,
    fingerprint: bool = True,
) -> RecordedClient:
    """Build the network of a recorded client, and decide what its attacker assumes.

    Args:
        recording: The recorded update.
        model: A name of the model zoo, or `package.module:factory?key=value`; see `build_model`. What the recording
            itself calls its model is never imported.
        weights: A file with the weights before local training, if the recording does not have them; None for those with
            which the factory builds the network.
        truth: Folder of the client's pictures; None if they are not at hand.
        fingerprint: Whether an obfuscation that the recording does not say is taken from the update; see
            `fingerprinted`.

    Raises:
        UsageError: The recording does not say enough, contradicts itself, or does not fit the model or the pictures.
    """
    who = f"recorded update {shown(recording.path)}"
    facts = recording.manifest
    channels, height, width = _image_shape(who, facts)
    originals = None if truth is None else load_truth(Path(truth), (channels, height, width))
    pictures = _pictures(who, facts, None if originals is None else len(originals))
    _refuse_giants(who, pictures, (channels, height, width))
    classes, notes = _classes(facts, recording)
    named = ModelName.parse(model) if isinstance(model, str) else model
    network = recorded_network(recording, named)
    recording = named_as(recording, network)
    file = _loaded(who, network, recording, weights)
    if not recording.before and not file:
        notes.append("The recording does not have the weights before training: those that the factory gives are used.")
    normalisation = facts.normalisation.value
    shown_normalisation = ""
    if normalisation is None:
        notes.append("The recording does not say the normalisation: only that of the network itself is used.")
        low, high = facts.input_range.value or (0.0, 1.0)
        if low < 0 or high > 1:
            notes.append(
                f"Yet the network got values from {low:.3g} to {high:.3g}, so pictures were normalised before it; give "
                "--fact normalisation={mean=[...],std=[...]}."
            )
    else:
        given = Normalisation.of(normalisation["mean"], normalisation["std"], channels=channels)
        network, shown_normalisation = normalised(network, given), str(given)
    update = update_of(recording, network)
    update.check()
    assumed = training_of(recording, pictures=pictures, has_buffers=update.buffers is not None)
    obfuscation = obfuscation_of(facts)
    if assumed.obfuscation is not None and (obfuscation is None or obfuscation.family == "none"):
        obfuscation = assumed.obfuscation
    shape = (channels, height, width)
    blank = torch.full((min(pictures, 2), *shape), 0.5)
    knowledge = Knowledge(
        training=assumed.training,
        image_shape=shape,
        num_images=pictures,
        classes=classes,
        labels=_labels(who, facts, pictures, classes),
        obfuscation=obfuscation,
        scale=assumed.scale,
        stochastic=draws_by_chance(network, blank, mode=assumed.training.mode),
    )
    received = _coded(update, obfuscation)
    if fingerprint:
        rounded = floats(recording.before) if recording.client else None
        received, knowledge = fingerprinted(received, knowledge, before=rounded)
    return RecordedClient(
        name=_name(recording),
        model=network,
        model_name=str(named),
        update=received,
        digest=recording.digest,
        knowledge=knowledge,
        truth=originals,
        weights=file,
        normalisation=shown_normalisation,
        notes=(*notes, *assumed.notes, *_estimated(facts)),
        privacy=tuple(
            stated(
                facts,
                obfuscation,
                is_gradient=bool(recording.gradient),
                pictures=pictures,
                buffers=assumed.training.buffers if isinstance(assumed.training, SendsBuffers) else "kept",
            )
        ),
    )


def recorded_network(recording: Recording, model: str | ModelName) -> Module:
    """Build the network of a recorded client, with the weights of its factory and without the manifest's normalisation.

    Args:
        recording: The recorded update, which says the shape of the pictures and the number of classes.
        model: As for `recorded_client`.

    Raises:
        UsageError: The recording does not say the shape, or the network cannot be built.
    """
    named = ModelName.parse(model) if isinstance(model, str) else model
    shape = _image_shape(f"recorded update {shown(recording.path)}", recording.manifest)
    return build_model(named, image_shape=shape, classes=_classes(recording.manifest, recording)[0], seed=0)


def _image_shape(who: str, facts: Manifest) -> tuple[int, int, int]:
    """Return the shape of the pictures; raise a `UsageError` if it is unknown or no picture can have it."""
    if facts.image_shape.value is None:
        raise UsageError(f"{who}: it does not say the shape of its pictures; give --fact image_shape=[3,32,32]")
    _refuse_giants(who, 1, facts.image_shape.value)
    return facts.image_shape.value


def _estimated(facts: Manifest) -> tuple[str, ...]:
    """Return a sentence on the facts that are estimates; none if there are none."""
    names = [name for name, fact in facts.facts.items() if fact.source == "estimated"]
    return (f"Estimates of the recording, taken as they are: {', '.join(names)}.",) if names else ()


def _pictures(who: str, facts: Manifest, there: int | None) -> int:
    """Return the number of pictures; raise a `UsageError` if nothing says it, or two things say different numbers."""
    labels = facts.labels.value
    known = {"examples": facts.examples.value, "labels": len(labels) if labels else None, "--truth": there}
    said = {name: number for name, number in known.items() if number is not None}
    if not said:
        raise UsageError(f"{who}: it does not say how many pictures it is of; give --fact examples=8")
    if len(set(said.values())) > 1:
        numbers = ", ".join(f"{name} {number}" for name, number in said.items())
        raise UsageError(f"{who}: the numbers of pictures differ ({numbers}); correct them, with --fact or in --truth")
    return next(iter(said.values()))


def _refuse_giants(who: str, pictures: int, shape: tuple[int, int, int]) -> None:
    """Raise a `UsageError` if all pictures together have more than `MOST_VALUES` values."""
    if pictures * shape[0] * shape[1] * shape[2] > MOST_VALUES:
        size = f"{pictures} of {shape[0]} x {shape[1]} x {shape[2]}"
        raise UsageError(f"{who}: its pictures, {size}, are too many; correct examples or image_shape with --fact")


def _classes(facts: Manifest, recording: Recording) -> tuple[int, list[str]]:
    """Return the number of classes, and what was assumed: the outputs of the last layer, if the manifest is silent."""
    if facts.classes.value is not None:
        found, notes = facts.classes.value, []
    else:
        shapes = [tensor.shape for tensor in recording.sent.values() if tensor.is_floating_point() and tensor.ndim]
        found = int(shapes[-1][0]) if shapes else 0
        notes = [f"The recording does not say the number of classes: its last tensor has {found} rows."]
    # A class is a row of some tensor, so a small file cannot ask for a giant network.
    rows = max((int(t.shape[0]) for t in (*recording.sent.values(), *recording.before.values()) if t.ndim), default=0)
    most = min(rows, MOST_CLASSES)
    if not 2 <= found <= most:
        raise UsageError(
            f"recorded update {shown(recording.path)}: expected 2 to {most:,} classes, which is the most rows of a "
            f"tensor, got {found:,}; give --fact classes=10"
        )
    return found, notes


def _loaded(who: str, network: Module, recording: Recording, weights: str | None) -> str:
    """Load the weights before local training; return name and checksum of their file, empty for the recording's own."""
    if recording.before and weights is not None:
        raise UsageError(f"{who}: it has the weights before local training; leave --weights out")
    if recording.before:
        tensors = {name: tensor for name, tensor in recording.before.items() if tensor.dtype != torch.bool}
        load_into(network, Checkpoint(recording.path, tensors, recording.digest[:12]))
    elif weights is not None:
        checkpoint = read_checkpoint(weights)
        load_into(network, checkpoint)
        return str(checkpoint)
    return ""


def _labels(who: str, facts: Manifest, pictures: int, classes: int) -> Int[Tensor, " n"] | None:
    """Return the labels that the manifest has, one for each picture; None if it has none."""
    labels = facts.labels.value
    if labels is None:
        return None
    if max(labels) >= classes:
        raise UsageError(f"{who}: label {max(labels)} is out of range for {classes} classes; correct labels or classes")
    return torch.tensor(labels)


def _coded(update: Update, obfuscation: Obfuscation | None) -> Update:
    """Return the update with zeros taken for entries that were not sent, where a known obfuscation leaves some out."""
    stages = () if obfuscation is None else atoms((obfuscation,))
    is_sparse = any(isinstance(stage, Sparsifier | Withholding) for stage in stages)
    return replace(update, coding=Coding(sparse=True)) if is_sparse else update


def _name(recording: Recording) -> str:
    """Return the client's name with the round, else the name of the file."""
    facts = recording.manifest
    if facts.client.value is None:
        return recording.path.stem
    return facts.client.value if facts.round.value is None else f"{facts.client.value}, round {facts.round.value}"
