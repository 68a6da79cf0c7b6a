"""One `[[client]]` table of an audit file: its clients, one for each cohort, number of rounds and batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unveil.cli.schema import ClientTable, quoted
from unveil.cli.toml_files import beside
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.models import ModelName
from unveil.clients.models.normalisation import Normalisation
from unveil.clients.pictures import BUILTIN
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError

MOST_CLIENTS = 100_000  # of a cohort
MOST_ROUNDS = 1000


def clients_of(number: int, table: ClientTable, folder: Path, *, decoys: int, others: bool) -> Iterator[Client]:
    """Yield the clients of a table.

    Args:
        number: Number of the table in the file, from 0.
        table: The table.
        folder: Folder of the audit file, to which files are relative.
        decoys: Number of decoys that the metrics want.
        others: Whether a control wants the batch of another client.

    Raises:
        UsageError: Something in it does not fit.
    """
    for cohort in _numbers(f"client.{number}.cohort", table.cohort, "clients", MOST_CLIENTS):
        for rounds in _numbers(f"client.{number}.rounds", table.rounds, "rounds", MOST_ROUNDS):
            for place in range(table.batches):
                yield _client(number, place, cohort, rounds, table, folder, decoys=decoys, others=others)


def _client(
    number: int, place: int, cohort: int, rounds: int, table: ClientTable, folder: Path, *, decoys: int, others: bool
) -> Client:
    """The cohort and rounds of batch `place` of table `number`, both from 0; files are relative to the audit file."""
    where = f"client.{number}"
    size = f" (cohort {cohort})" if isinstance(table.cohort, list) else ""
    batch = "" if table.batches == 1 else f" {place + 1}"
    several = f" ({rounds} round{'s' if rounds > 1 else ''})" if isinstance(table.rounds, list) else ""
    local = training.parse(table.training)
    if rounds > 1 and table.server_lr is None and isinstance(local, FedSGD):
        raise UsageError(
            f"{where}.rounds: between two rounds the server multiplies a gradient by its learning rate; set server_lr, "
            "such as 0.1"
        )
    if table.cohort_obfuscates == "each" and table.cohort == 1:
        raise UsageError(f"{where}.cohort_obfuscates: one client has no mean; set cohort = [1, 4], or leave it out")
    if table.error_feedback and table.rounds == 1:
        raise UsageError(f"{where}.error_feedback: one round has no next one; set rounds = [1, 3], or leave it out")
    client = make_client(
        name=f"{table.name}{size}{several}{batch}",
        model=read_model(f"{where}.model", table.model),
        images=images_of(table, folder),
        size=read_size(f"{where}.size", table.size),
        batch=table.batch,
        channels=table.channels,
        classes=table.classes,
        class_names=table.class_names,
        training=local,
        weights=None if table.weights is None else beside(folder, table.weights),
        normalisation=read_normalisation(f"{where}.normalise", table.normalise, table.channels),
        labels_csv=None if table.labels_csv is None else beside(folder, table.labels_csv),
        gallery=None if table.gallery is None else beside(folder, table.gallery),
        seed=table.seed,
        decoys=decoys,
        others=others,
        place=place,
        batches=table.batches,
        cohort=cohort,
    )
    # Results show the folder as the audit file writes it, not the full path on this machine.
    return dataclasses.replace(
        client,
        source=table.images,
        cohort_of=f"{table.name}{several}{batch}" if size else "",
        cohort_obfuscates=table.cohort_obfuscates,
        rounds=rounds,
        error_feedback=table.error_feedback and rounds > 1,
        server_lr=1.0 if table.server_lr is None else table.server_lr,
        rounds_of=f"{table.name}{size}{batch}" if several else "",
    )


def _numbers(where: str, given: Any, what: str, most: int) -> list[int]:
    """Numbers of clients or rounds, from one number or a list."""
    numbers = given if isinstance(given, list) else [given]
    if not numbers or not all(isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= most for k in numbers):
        raise UsageError(
            f"{where}: expected a number of {what} from 1 to {most:,}, or a list of such numbers, got "
            f"{quoted(given)}; write {where.rpartition('.')[2]} = [1, 2, 4]"
        )
    return numbers


def images_of(table: ClientTable, folder: Path) -> str:
    """The source of a client's pictures; a folder is relative to the folder of the audit file."""
    return BUILTIN if table.images == BUILTIN else beside(folder, table.images)


def read_model(where: str, given: Any) -> ModelName:
    """A model's name and arguments, from a string or from a table."""
    if isinstance(given, str):
        return ModelName.parse(given)
    arguments = dict(given) if isinstance(given, dict) else {}
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(
            f"{where}: expected a name, or a table with one and the factory's arguments, got {quoted(given)}; "
            'write name = "package.module:factory"'
        )
    named = ModelName.parse(name)
    for key in arguments:
        if not key.isidentifier() or key in named.arguments:
            why = "is given twice" if key in named.arguments else "is no argument's name"
            raise UsageError(f"{where}: {key!r} {why}; correct it")
    return dataclasses.replace(named, arguments={**named.arguments, **arguments})


def read_size(where: str, given: Any) -> int | tuple[int, int]:
    """Height and width in pixels, from one number or a list of two."""
    sides = given if isinstance(given, list) and len(given) == 2 else [given]
    if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides):
        raise UsageError(
            f"{where}: expected pixels, at least 1, or [height, width], got {quoted(given)}; 32 to 128 is usual"
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def read_normalisation(where: str, given: Any, channels: int) -> Normalisation | None:
    """The normalisation of a table with `mean` and `std`; None for none."""
    if given is None:
        return None
    if not isinstance(given, dict) or set(given) != {"mean", "std"}:
        raise UsageError(
            f"{where}: expected a table with mean and std, got {quoted(given)}; "
            "write normalise = { mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }"
        )
    return Normalisation.of(given["mean"], given["std"], channels=channels)
