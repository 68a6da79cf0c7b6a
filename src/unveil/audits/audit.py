"""The audit: clients x threat models x obfuscations x attacks x seeds, always with the baseline."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor

from unveil.audits.controls import checked as check_controls
from unveil.audits.kept_pictures import Kept, check_kept, keeping
from unveil.audits.noting import note_run
from unveil.audits.results import append, prepare, read_trials, trial_key
from unveil.audits.scoring import MetricSelection
from unveil.audits.threat_model import ThreatModel
from unveil.audits.trial import arithmetic_of, run_trial, settings_of, shape_of, versions_on
from unveil.audits.trial_pictures import is_whole
from unveil.clients.client import Client
from unveil.core.circumstances import changed
from unveil.core.errors import UsageError, writing
from unveil.core.files import make_folder, shown
from unveil.core.locks import locked
from unveil.core.metric import Metric
from unveil.core.protocols import Attack, Enhancer, Obfuscation
from unveil.core.records import BASELINE, Trial
from unveil.core.watch import Progress, Watch
from unveil.obfuscations import parse as parse_obfuscation
from unveil.privacy.terms import PrivacyTerms

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One trial of an audit, ready to be run.

    Args:
        settings: The settings of the trial, which with its seed identify it.
        seed: Its seed.
        run: Runs it; the argument is called after each step of its attack, None for no reports.
    """

    settings: Mapping[str, str]
    seed: int
    run: Callable[[Watch | None], Trial]


@runtime_checkable
class Runnable(Protocol):
    """What `run` runs: an audit of simulated clients, or one of recorded updates."""

    @property
    def images(self) -> Kept:
        """Which pictures the results keep."""
        ...

    @property
    def device(self) -> torch.device:
        """Where attacks are computed."""
        ...

    def __len__(self) -> int: ...

    def settings(self) -> dict[str, Any]:
        """Everything that the results depend on, as plain JSON."""
        ...

    def tasks(self) -> Iterator[Task]:
        """The trials in the order in which they are run."""
        ...


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything that is to be tried. The baseline, `none`, is put first where it is missing.

    Args:
        clients: The clients, each with a name of its own.
        obfuscations: The obfuscations to compare.
        attacks: The attacks to run on each of them.
        seeds: Whole numbers of at least 0; everything is run once for each.
        threat_models: What attackers are granted; everything is run once for each. A threat model that changes nothing
            for a client is skipped for that client.
        metrics: What reconstructions are scored with.
        controls: Names of updates of other pictures, on which every attack is run too; see `controls.CONTROLS`.
        enhancer: The network that changes every attack's pictures afterwards; None for none.
        images: Which pictures the results keep; scores are always those of the pictures themselves.
        author: Who answers for the audit, for the head of its report; empty to name nobody. No result depends on it.
        privacy: The terms on which differential privacy is stated; see `run_trial`.

    Raises:
        UsageError: A list is empty or names something twice, a seed is negative, a control is unknown, or a threat
            model changes nothing for any client.
    """

    clients: Sequence[Client]
    obfuscations: Sequence[Obfuscation]
    attacks: Sequence[Attack]
    seeds: Sequence[int] = (0,)
    threat_models: Sequence[ThreatModel] = (ThreatModel(),)
    metrics: MetricSelection = field(default_factory=MetricSelection)
    controls: Sequence[str] = ()
    enhancer: Enhancer | None = None
    images: Kept = "full"
    author: str = ""
    privacy: PrivacyTerms | None = None

    def __post_init__(self) -> None:
        if BASELINE not in map(str, self.obfuscations):
            object.__setattr__(self, "obfuscations", (parse_obfuscation(BASELINE), *self.obfuscations))
        check_list("clients", [client.name for client in self.clients])
        check_list("obfuscations", [str(obfuscation) for obfuscation in self.obfuscations])
        check_list("attacks", [str(attack) for attack in self.attacks])
        check_list("seeds", list(self.seeds))
        check_list("threat_models", [str(threat_model) for threat_model in self.threat_models])
        for threat_model in self.threat_models:
            if not any(threat_model.is_another(client) for client in self.clients):
                raise UsageError(
                    f"audit: {threat_model}: no client's network draws anything by chance in its mode, so that "
                    "knowing it makes no difference; leave it out of threat_models, or train a client with mode=train"
                    if threat_model.draws
                    else f"audit: {threat_model}: no client trains in several mini-batches, so their order makes no "
                    "difference; leave it out of threat_models, or give a client a training with batch_size"
                )
        check_controls(self.controls)
        check_kept(self.images)
        if min(self.seeds) < 0:
            raise UsageError(f"audit: expected seeds of at least 0, got {min(self.seeds)}; use 0, 1, 2")

    @property
    def device(self) -> torch.device:
        """Where attacks are computed."""
        return self.clients[0].batch.images.device

    def __len__(self) -> int:
        return sum(1 for _ in self.trials())

    def trials(self) -> Iterator[tuple[Client, ThreatModel, Obfuscation, Attack, int]]:
        """The trials in the order in which they are run.

        A client whose local training adds noise has one more baseline, the update of the same training without noise.
        """
        nothing = next(obfuscation for obfuscation in self.obfuscations if str(obfuscation) == BASELINE)
        for client, threat_model in itertools.product(self.clients, self.threat_models):
            if threat_model.is_another(client):
                if (bare := client.without_noise()) is not None:
                    for attack, seed in itertools.product(self.attacks, self.seeds):
                        yield bare, threat_model, nothing, attack, seed
                for rest in itertools.product(self.obfuscations, self.attacks, self.seeds):
                    yield client, threat_model, *rest

    def tasks(self) -> Iterator[Task]:
        """The trials, each ready to be run."""
        by_client: dict[str, Mapping[str, Metric]] = {}  # built at a client's first trial, which takes seconds
        for client, threat_model, obfuscation, attack, seed in self.trials():
            yield Task(
                settings=settings_of(client, obfuscation, attack, threat_model, self.enhancer),
                seed=seed,
                run=partial(self._trial, client, threat_model, obfuscation, attack, seed, by_client),
            )

    def _trial(
        self,
        client: Client,
        threat_model: ThreatModel,
        obfuscation: Obfuscation,
        attack: Attack,
        seed: int,
        by_client: dict[str, Mapping[str, Metric]],
        watch: Watch | None,
    ) -> Trial:
        if client.name not in by_client:
            by_client[client.name] = self.metrics(client)
        return run_trial(
            client,
            obfuscation,
            attack,
            seed=seed,
            threat_model=threat_model,
            metrics=by_client[client.name],
            controls=self.controls,
            enhancer=self.enhancer,
            privacy=self.privacy,
            chance=self.metrics.chance(client),
            watch=watch,
        )

    def settings(self) -> dict[str, Any]:
        """Everything that the results depend on, as plain JSON; `settings_after` says which audits share a folder."""
        devices = {client.batch.images.device for client in self.clients}
        return {
            "clients": [
                {
                    "name": client.name,
                    "model": client.model_name,
                    "images": str(client.source),
                    "batch": shape_of(client.batch),
                    "classes": client.classes,
                    "training": str(client.training),
                    "pictures": digest_of([client.batch.images, client.batch.labels]),
                    **{f"{key} of the model": value for key, value in client.given.items()},
                    "weights": digest_of([*client.model.parameters(), *client.model.buffers()]),
                }
                for client in self.clients
            ],
            "obfuscations": [str(obfuscation) for obfuscation in self.obfuscations],
            "attacks": [str(attack) for attack in self.attacks],
            "seeds": list(self.seeds),
            "threat_models": [str(threat_model) for threat_model in self.threat_models],
            "metrics": self.metrics.settings,
            "controls": list(self.controls),
            "arithmetic": {
                str(attack): ", ".join(sorted({arithmetic_of(attack, device) for device in devices}))
                for attack in self.attacks
            },
            **({} if self.enhancer is None else {"enhancer": str(self.enhancer)}),
            **({} if self.images == "full" else {"images": self.images}),
            **({} if self.privacy is None else {"privacy": dataclasses.asdict(self.privacy)}),
        }

    def to(self, device: torch.device) -> Audit:
        """The same audit with every model and batch on the device."""
        return dataclasses.replace(self, clients=[client.to(device) for client in self.clients])


@dataclass(frozen=True, kw_only=True)
class AuditProgress:
    """How far an audit is. Sent when a trial starts, after each step of its attack, and when the trial ends.

    Args:
        done: Number of finished trials, those of an earlier run included.
        total: Number of trials in the audit.
        settings: The settings of the present trial.
        seed: The seed of the present trial.
        step: The last step of its attack; None before the first.
        trial: The finished trial; None until it has ended.
    """

    done: int
    total: int
    settings: Mapping[str, str]
    seed: int
    step: Progress | None = None
    trial: Trial | None = None


def run(
    audit: Runnable,
    folder: Path,
    on_progress: Callable[[AuditProgress], None] | None = None,
    *,
    command: str = "",
    author: str = "",
) -> list[Trial]:
    """Run the trials that the folder does not hold yet, and append each to the folder as soon as it ends.

    Args:
        audit: What to try.
        folder: The results folder, new or of an earlier run: of this audit, or of one that it extends or is a part of.
        on_progress: Called with every `AuditProgress`; None for no reports.
        command: The command that runs the audit, which the folder keeps for reports; empty from Python.
        author: Who answers for the audit, likewise; empty to name nobody.

    Returns:
        All trials of the audit in its order, those of an earlier run included.

    Raises:
        UsageError: The folder or a component cannot be used; finished trials are kept.
    """
    with writing(folder, "--out"):
        make_folder(folder, private=True)
    with locked(folder, fix="wait until it has ended, or choose another folder with --out"):
        prepare(folder, audit.settings())
        tasks = {trial_key(task.settings, task.seed): task for task in audit.tasks()}
        kept = {key: trial for key, trial in _kept(folder).items() if key in tasks}
        if len(kept) < len(tasks):  # a run that computes nothing is none
            note_run(folder, command=command, author=author)
            _announce_other_circumstances(folder, kept.values(), audit.device)
        for key, task in tasks.items():
            if key in kept:
                continue

            progress = AuditProgress(done=len(kept), total=len(audit), settings=task.settings, seed=task.seed)
            report = on_progress or (lambda progress: None)
            report(progress)
            trial = task.run(_watch(report, progress) if on_progress else None)
            trial = append(folder, keeping(trial, audit.images))
            kept[key] = trial
            report(dataclasses.replace(progress, done=len(kept), trial=trial))
    return [kept[key] for key in tasks]


def _announce_other_circumstances(folder: Path, kept: Iterable[Trial], device: torch.device) -> None:
    """Log a warning if finished trials were computed in a way in which this process will not compute the rest."""
    if other := changed([trial.versions for trial in kept], versions_on(device)):
        log.warning(
            "%s: finished trials were computed under other circumstances (%s), which can change scores by more than "
            "the last digits; they are kept, and another folder with --out computes all of them alike",
            shown(folder),
            other,
        )


def _kept(folder: Path) -> dict[str, Trial]:
    """The finished trials of a folder by key, without those whose pictures are missing or damaged."""
    trials = {trial_key(trial.settings, trial.seed): trial for trial in read_trials(folder)}
    whole = {key: trial for key, trial in trials.items() if is_whole(folder, trial)}
    if len(whole) < len(trials):
        log.warning(
            "%s: pictures of %d of %d finished trials are missing or damaged; these trials are run again",
            shown(folder),
            len(trials) - len(whole),
            len(trials),
        )
    return whole


def _watch(report: Callable[[AuditProgress], None], progress: AuditProgress) -> Watch:
    """A watch that reports each step of an attack as the progress of the audit."""
    return lambda step: report(dataclasses.replace(progress, step=step))


def digest_of(tensors: Iterable[Shaped[Tensor, ...]]) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the tensors' bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def check_list(name: str, values: list[Any]) -> None:
    """Raise a `UsageError` if the list is empty or holds a value twice."""
    if not values:
        raise UsageError(f"audit: expected at least one of {name}, got none; add one")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UsageError(f"audit: {value} is given twice in {name}; keep one of them")
