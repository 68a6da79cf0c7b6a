"""The keys of an advice file, their types and defaults."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from unveil.advice.trainers import TrainerName
from unveil.audits.controls import ANOTHER
from unveil.cli.schema import STRICT, AtLeastOne, AtLeastZero, MetricsTable, explain
from unveil.clients.pictures import BUILTIN


@dataclass(frozen=True, kw_only=True)
class FederationTable:
    """`[federation]`: who trains on what, and for how long.

    Args:
        model, weights, normalise, size, channels, classes, class_names: As in `ClientTable`.
        images: `builtin` for tiles of the built-in photographs, or a folder relative to the TOML file.
        clients: Number of clients.
        pictures: Pictures of each client; None for as many as its batch.
        batch: Pictures that a client trains on in one round.
        training: SPEC of the local training.
        rounds: Number of rounds.
        server_lr: What the server multiplies the mean update by.
        test: Number of test pictures.
        test_images: Folder of the test pictures; None for the rest of `images`.
        seeds: Seeds of the federation.
        seed: Seed of the choice of pictures.
        trainer: What trains it; see `trainer_named`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    model: Any = "lenet"
    weights: str | None = None
    normalise: Any = None
    images: str = BUILTIN
    size: Any = 32
    channels: AtLeastOne = 3
    classes: AtLeastOne | None = None
    class_names: list[str] = dataclasses.field(default_factory=list)
    clients: AtLeastOne = 10
    pictures: AtLeastOne | None = None
    batch: AtLeastOne = 8
    training: str = "fedavg:epochs=1,lr=0.1"
    rounds: AtLeastOne = 20
    server_lr: float = 1.0
    test: AtLeastOne = 200
    test_images: str | None = None
    seeds: list[AtLeastZero] = dataclasses.field(default_factory=lambda: [0])
    seed: AtLeastZero = 0
    trainer: TrainerName = "auto"


@dataclass(frozen=True, kw_only=True)
class AdviceTable:
    """The whole file.

    Args:
        federation: The federation.
        target: What may come back at most; see `parse_target`.
        candidates: SPECs of obfuscations, with or without a range; see `parse_candidates`.
        attacks: SPECs of the attacks.
        steps: Most steps of the bisection of a range.
        attacked: Clients that are attacked in each phase; None for all.
        controls: Names of updates of other pictures, on which every attack is run too.
        metrics: What reconstructions are scored with beside their pixels.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    federation: FederationTable = dataclasses.field(default_factory=lambda: FederationTable())
    target: str
    candidates: list[str]
    attacks: list[str] = dataclasses.field(default_factory=lambda: ["unveil", "inverting_gradients"])
    steps: AtLeastZero = 4
    attacked: AtLeastOne | None = None
    controls: list[str] = dataclasses.field(default_factory=lambda: [ANOTHER])
    metrics: MetricsTable = dataclasses.field(default_factory=lambda: MetricsTable())


SECTIONS: Mapping[str, type] = {"federation": FederationTable, "metrics": MetricsTable}


def checked_advice(data: dict[str, Any]) -> AdviceTable:
    """Return the tables of an advice file; raise a `UsageError` if a key is unknown or missing, or has a wrong type."""
    try:
        table: AdviceTable = TypeAdapter(AdviceTable).validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise explain(error, AdviceTable, SECTIONS) from None
    return table
