"""The advice file: TOML to a `Question`. `advice_schema` has the keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unveil import attacks
from unveil.advice.advising import Question
from unveil.advice.candidates import parse_candidates
from unveil.advice.data import FederationData, Source, load_data
from unveil.advice.federation import Federation
from unveil.advice.making import make_federation
from unveil.advice.target import parse_target, refuse_too_few
from unveil.advice.trainers import trainer_named
from unveil.advice.updates import Auditing, first_client
from unveil.audits.controls import checked as check_controls
from unveil.cli.advice_schema import AdviceTable, FederationTable, checked_advice
from unveil.cli.client_table import read_model, read_normalisation, read_size
from unveil.cli.config import read_metrics
from unveil.cli.toml_files import beside, naming, overridden, source_of
from unveil.clients import training
from unveil.clients.pictures import BUILTIN
from unveil.core.errors import UsageError
from unveil.core.third_parties import modules_beside
from unveil.metrics import FACTS


def load_question(path: Path, overrides: Sequence[str] = ()) -> Question:
    """Read an advice file.

    Args:
        path: The TOML file; paths in it are relative to its folder, in which modules that it names are looked for too.
        overrides: `key=value` each, as in `federation.rounds=5`.

    Raises:
        UsageError: The file cannot be read, something in it is unknown, missing or does not fit, or there are too few
            pictures for the target.
    """
    data = overridden(path, overrides, None)
    with naming(source_of(path, overrides)), modules_beside(path.parent):
        table = checked_advice(data)
        candidates = parse_candidates(table.candidates)
        check_controls(table.controls)
        trainer = trainer_named(table.federation.trainer)
        named = [attacks.parse(spec) for spec in table.attacks]
        if not named or len(set(map(str, named))) < len(named):
            raise UsageError('attacks: expected at least one, and each once; write attacks = ["unveil"]')
        metrics = read_metrics(table.metrics, path.parent)
        federation = _federation(table, path.parent, decoys=metrics.decoys)
        attacked = federation.clients if table.attacked is None else table.attacked
        if attacked > federation.clients:
            raise UsageError(
                f"attacked: {attacked} clients are to be attacked, and there are {federation.clients}; lower it, or "
                "raise clients"
            )
        auditing = Auditing(
            attacks=named,
            metrics=metrics,
            clients=attacked,
            controls=table.controls,
        )
        computed = auditing.metrics(first_client(federation))
        target = parse_target(table.target, list({**FACTS, **computed}), list(computed))
        refuse_too_few(target, attacked * federation.batch)
        return Question(
            federation=federation,
            auditing=auditing,
            target=target,
            candidates=candidates,
            steps=table.steps,
            trainer=trainer,
        )


def _federation(table: AdviceTable, folder: Path, *, decoys: int) -> Federation:
    given = table.federation
    return make_federation(
        _data(given, folder, decoys=decoys),
        model=read_model("federation.model", given.model),
        clients=given.clients,
        batch=given.batch,
        training=training.parse(given.training),
        rounds=given.rounds,
        server_lr=given.server_lr,
        seeds=given.seeds,
        weights=None if given.weights is None else beside(folder, given.weights),
        normalisation=read_normalisation("federation.normalise", given.normalise, given.channels),
    )


def _data(given: FederationTable, folder: Path, *, decoys: int) -> FederationData:
    """The pictures; results show the folder as the file writes it, not the full path on this machine."""
    size = read_size("federation.size", given.size)
    shape = (size, size) if isinstance(size, int) else size

    def source(images: str) -> Source:
        return Source(
            images=images if images == BUILTIN else beside(folder, images),
            size=shape,
            channels=given.channels,
            seed=given.seed,
            class_names=tuple(given.class_names),
            name=images,
        )

    return load_data(
        source(given.images),
        train=given.clients * (given.batch if given.pictures is None else given.pictures),
        test=given.test,
        decoys=decoys,
        classes=given.classes,
        tested=None if given.test_images is None else source(given.test_images),
    )
