"""The audit: scenes x attackers x obfuscations x attacks x seeds, the un-obfuscated control always among them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unveil.audits.controls import checked as check_controls
from unveil.audits.results import append, prepare, read_trials, trial_key
from unveil.audits.scoring import Measures
from unveil.audits.threat_model import Attacker
from unveil.audits.trial import arithmetic_of, run_trial, settings_of, shape_of
from unveil.clients.client import Scene
from unveil.core.errors import UsageError
from unveil.core.protocols import Attack, Enhancer, Obfuscation
from unveil.core.records import Trial
from unveil.core.types import Batch, Metric, Progress, Watch
from unveil.obfuscations import parse as parse_obfuscation

CONTROL = "none"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything that is to be tried; the un-obfuscated control is put first where it is missing.

    Args:
        scenes: Who trains on what; their names differ.
        obfuscations: The channels to compare.
        attacks: The attacks to run on each of them.
        seeds: One run of everything for each; whole numbers of at least 0.
        knowledge: How much the attackers are granted, one run of everything for each. One who is no other than
            somebody who knows everything, for a scene, is left out there.
        measures: What reconstructions are scored with.
        controls: Updates that know nothing of the pictures, on which every attack is run too; see `controls.py`.
        enhancer: What is made of every attack's pictures; None to score them as they are.
    """

    scenes: Sequence[Scene]
    obfuscations: Sequence[Obfuscation]
    attacks: Sequence[Attack]
    seeds: Sequence[int] = (0,)
    knowledge: Sequence[Attacker] = (Attacker(),)
    measures: Measures = field(default_factory=Measures)
    controls: Sequence[str] = ()
    enhancer: Enhancer | None = None

    def __post_init__(self) -> None:
        if CONTROL not in map(str, self.obfuscations):
            object.__setattr__(self, "obfuscations", (parse_obfuscation(CONTROL), *self.obfuscations))
        _check_list("scenes", [scene.name for scene in self.scenes])
        _check_list("obfuscations", [str(obfuscation) for obfuscation in self.obfuscations])
        _check_list("attacks", [str(attack) for attack in self.attacks])
        _check_list("seeds", list(self.seeds))
        _check_list("knowledge", [str(attacker) for attacker in self.knowledge])
        for attacker in self.knowledge:
            if not any(attacker.is_another(scene) for scene in self.scenes):
                raise UsageError(
                    f"audit: {attacker}: no scene's network draws anything by chance in its client's mode, so that "
                    "knowing it makes no difference; leave it out of knowledge, or train a scene with mode=train"
                    if attacker.draws
                    else f"audit: {attacker}: no scene trains in several mini-batches, so their order makes no "
                    "difference; leave it out of knowledge, or give a scene a training with batch_size"
                )
        check_controls(self.controls)
        if min(self.seeds) < 0:
            raise UsageError(f"audit: expected seeds of at least 0, got {min(self.seeds)}; use 0, 1, 2")

    def __len__(self) -> int:
        return sum(1 for _ in self.trials())

    def trials(self) -> Iterator[tuple[Scene, Attacker, Obfuscation, Attack, int]]:
        """What is to be run, in order."""
        for scene, attacker in itertools.product(self.scenes, self.knowledge):
            if attacker.is_another(scene):
                for rest in itertools.product(self.obfuscations, self.attacks, self.seeds):
                    yield scene, attacker, *rest

    def settings(self) -> dict[str, Any]:
        """All that the results depend on, as plain JSON: two audits with equal settings may share a folder."""
        return {
            "scenes": [
                {
                    "name": scene.name,
                    "model": scene.model_name,
                    "images": str(scene.source),
                    "batch": shape_of(scene.batch),
                    "classes": scene.classes,
                    "training": str(scene.training),
                    "pictures": _digest([scene.batch.images, scene.batch.labels]),
                    **{f"{key} of the model": value for key, value in scene.given.items()},
                    "weights": _digest([*scene.model.parameters(), *scene.model.buffers()]),
                }
                for scene in self.scenes
            ],
            "obfuscations": [str(obfuscation) for obfuscation in self.obfuscations],
            "attacks": [str(attack) for attack in self.attacks],
            "seeds": list(self.seeds),
            "knowledge": [str(attacker) for attacker in self.knowledge],
            "measures": self.measures.settings,
            "controls": list(self.controls),
            "arithmetic": sorted({arithmetic_of(a, s.batch.images.device) for a in self.attacks for s in self.scenes}),
            **({} if self.enhancer is None else {"enhancer": str(self.enhancer)}),
        }

    def to(self, device: torch.device) -> Audit:
        """The same audit with every model and batch on the device."""
        scenes = [
            dataclasses.replace(
                scene,
                model=scene.model.to(device),
                batch=_moved(scene.batch, device),
                decoys=None if scene.decoys is None else scene.decoys.to(device),
                others=None if scene.others is None else _moved(scene.others, device),
            )
            for scene in self.scenes
        ]
        return dataclasses.replace(self, scenes=scenes)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far an audit is; sent when a trial starts, after each step of its attack, and when it ends.

    Args:
        done: Trials finished, those of an earlier run included.
        total: Trials in the audit.
        settings: The settings of the trial this is about.
        seed: Its seed.
        progress: The attack's last step, None before the first.
        trial: The finished trial, None until then.
    """

    done: int
    total: int
    settings: Mapping[str, str]
    seed: int
    progress: Progress | None = None
    trial: Trial | None = None


def run(audit: Audit, folder: Path, on_progress: Callable[[Standing], None] | None = None) -> list[Trial]:
    """Run what the folder does not hold yet, keep each trial as soon as it ends, and return all of them in order.

    Args:
        audit: What to try.
        folder: The results folder, new or of an earlier run with the same settings.
        on_progress: Called with every `Standing`.

    Raises:
        UsageError: The folder or something in the audit cannot be used; what was finished is kept.
    """
    prepare(folder, audit.settings())
    kept = {trial_key(trial.settings, trial.seed): trial for trial in read_trials(folder)}
    keys = []
    metrics: dict[str, Mapping[str, Metric]] = {}  # a scene's are made when its first trial is run
    for scene, attacker, obfuscation, attack, seed in audit.trials():
        settings = settings_of(scene, obfuscation, attack, attacker, audit.enhancer)
        keys.append(trial_key(settings, seed))
        if keys[-1] in kept:
            continue

        standing = Standing(done=len(kept), total=len(audit), settings=settings, seed=seed)
        tell = on_progress or (lambda standing: None)
        tell(standing)
        if scene.name not in metrics:
            metrics[scene.name] = audit.measures(scene)
        trial = run_trial(
            scene,
            obfuscation,
            attack,
            seed=seed,
            folder=folder,
            attacker=attacker,
            metrics=metrics[scene.name],
            controls=audit.controls,
            enhancer=audit.enhancer,
            watch=_watch(tell, standing) if on_progress else None,
        )
        append(folder, trial)
        kept[keys[-1]] = trial
        tell(dataclasses.replace(standing, done=len(kept), trial=trial))
    return [kept[key] for key in keys]


def _watch(tell: Callable[[Standing], None], standing: Standing) -> Watch:
    return lambda progress: tell(dataclasses.replace(standing, progress=progress))


def _moved(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.images.to(device), batch.labels.to(device))


def _digest(tensors: Iterable[Tensor]) -> str:
    """Twelve characters that change when a picture or a weight does."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def _check_list(name: str, values: list[Any]) -> None:
    if not values:
        raise UsageError(f"audit: expected at least one of {name}, got none; add one")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UsageError(f"audit: {value} is given twice in {name}; keep one of them")
