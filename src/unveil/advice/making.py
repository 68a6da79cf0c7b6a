"""Making a federation from names and options, as an advice file gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unveil.advice.data import FederationData
from unveil.advice.federation import Federation
from unveil.clients.models import ModelName, build_model
from unveil.clients.models.checkpoints import load_into, read_checkpoint
from unveil.clients.models.normalisation import Normalisation, normalised
from unveil.clients.models.rehearsal import FEW, rehearse
from unveil.clients.training import shortened
from unveil.core.errors import UsageError
from unveil.core.protocols import LocalTraining


def make_federation(
    data: FederationData,
    *,
    model: ModelName,
    clients: int,
    batch: int,
    training: LocalTraining,
    rounds: int,
    server_lr: float,
    seeds: Sequence[int],
    weights: str | None = None,
    normalisation: Normalisation | None = None,
) -> Federation:
    """Build the models, check that they fit the pictures, and rehearse a client's local training.

    Args:
        data: The pictures.
        model: A name of the model zoo, or `package.module:factory`.
        clients: Number of clients.
        batch: Pictures that a client trains on in one round.
        training: The local training.
        rounds: Number of rounds.
        server_lr: What the server multiplies the mean update by.
        seeds: Seeds of the federation; each draws the weights of a built-in model and the order of the pictures.
        weights: File of trained weights from which the federation starts; None for the model's own.
        normalisation: Normalisation in front of the model; None if it takes pictures in [0, 1].

    Raises:
        UsageError: The model cannot be used, or does not fit the pictures; a number is out of range; a seed is given
            twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError("federation: expected at least one seed, and each once; write seeds = [0, 1]")
    _, channels, height, width = data.train.images.shape
    checkpoint = None if weights is None else read_checkpoint(weights)
    starts = {}
    for seed in seeds:
        network = build_model(model, image_shape=(channels, height, width), classes=data.classes, seed=seed)
        if checkpoint is not None:
            load_into(network, checkpoint)
        starts[seed] = network if normalisation is None else normalised(network, normalisation)
    given = {"weights": str(checkpoint or ""), "normalise": str(normalisation or "")}
    federation = Federation(
        starts=starts,
        model_name=str(model),
        data=data,
        clients=clients,
        batch=batch,
        training=training,
        rounds=rounds,
        server_lr=server_lr,
        given={key: value for key, value in given.items() if value},
    )
    first = federation.held(0, 0, seed=seeds[0])
    notes = rehearse(
        model,
        starts[seeds[0]],
        first,
        data.classes,
        client=shortened(training, batch),
        attacker=shortened(training, min(batch, FEW)),
    )
    return replace(federation, notes=(*data.notes, *notes))
