"""One trial: a client trains and sends, a channel obfuscates, an attack rebuilds, metrics score."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Generator

from unveil import __version__
from unveil.audits.controls import CONTROLS, control_batch
from unveil.audits.profiling import Profiler
from unveil.audits.results import save_pictures, trial_key
from unveil.audits.threat_model import ThreatModel
from unveil.clients.client import Client
from unveil.clients.training import draws_of
from unveil.core.arithmetic import arithmetic_on, full_precision, machine
from unveil.core.errors import UsageError
from unveil.core.protocols import Attack, Enhancer, Obfuscation, TakesRoughSteps, UsesLearnedPrior
from unveil.core.records import Enhanced, Trial
from unveil.core.types import Batch, Images, Metric, Reconstruction, Update, Watch
from unveil.enhancers.consistency import enhance, from_labels, refuse_seen
from unveil.metrics import CATALOGUE as METRICS
from unveil.metrics.alignment import align

CURVE = 200  # points of a loss curve that are kept
EVERYTHING = ThreatModel()
LABEL_ALONE, LABEL_MATCHED = "label alone", "label alone (matched)"  # the controls of an enhancer that draws by labels
GREY = 0.5  # the blind guess: what one would answer without having seen the update


def run_trial(
    client: Client,
    obfuscation: Obfuscation,
    attack: Attack,
    *,
    seed: int,
    folder: Path,
    threat_model: ThreatModel = EVERYTHING,
    metrics: Mapping[str, Metric] = METRICS,
    controls: Sequence[str] = (),
    enhancer: Enhancer | None = None,
    watch: Watch | None = None,
) -> Trial:
    """One client, one channel, one attack, one seed, from the client's training to the scores.

    Args:
        client: The client.
        obfuscation: The channel.
        attack: The attack.
        seed: Seed of the client's noise, the channel and the attack, each with a generator of its own.
        folder: Where the pictures are saved.
        threat_model: How much the attacker is granted.
        metrics: What the reconstructions are scored with.
        controls: Names of `CONTROLS`; the same attack is run on each, and scored against the same originals.
        enhancer: What is made of the attack's pictures, the controls' too; None to score them as they are.
        watch: Called after each step of the attack; its time does not count.

    Raises:
        UsageError: The update is all zeros or not finite, or a component cannot work with this client.
    """
    key = trial_key(settings_of(client, obfuscation, attack, threat_model, enhancer), seed)
    inside = attack.prior if isinstance(attack, UsesLearnedPrior) else None
    for prior in (enhancer, inside):
        if prior is not None:
            refuse_seen(prior, client.batch.images)
    originals, device = client.batch.images, client.batch.images.device
    unknowing = {name: other for name in controls if (other := _control(name, client, seed)) is not None}
    missing = [
        f"The control {name!r} was not run: its source has too few pictures."
        for name in controls
        if name not in unknowing
    ]
    parts = len(unknowing) + 1

    # Scored first, so that pictures which no metric can take are refused before the attack and not after it.
    floor = _scores(metrics, originals, torch.full_like(originals, GREY))
    beside, beside_enhanced = {}, {}
    for number, (name, other) in enumerate(unknowing.items()):
        told = _part_of(watch, number, parts)
        control = rebuild(
            other, obfuscation, attack, seed=seed, threat_model=threat_model, enhancer=enhancer, watch=told
        )
        beside[name] = _scores(metrics, originals, align(originals, control.guess).images)
        if control.restored is not None:
            beside_enhanced[name] = _scores(metrics, originals, align(originals, control.restored).images)
    told = _part_of(watch, parts - 1, parts)
    played = rebuild(client, obfuscation, attack, seed=seed, threat_model=threat_model, enhancer=enhancer, watch=told)
    guess = align(originals, played.guess)
    trial = Trial(
        settings=settings_of(client, obfuscation, attack, threat_model),
        seed=seed,
        wire_bits=played.wire_bits,
        raw_bits=played.raw_bits,
        seconds=played.seconds,
        iterations=len(guess.losses),
        peak_mib=played.peak_mib,
        stop=guess.stop.value,
        scores=_scores(metrics, originals, guess.images),
        floor=floor,
        controls=beside,
        losses=_thinned(guess.losses),
        originals=save_pictures(folder, key, "original", originals),
        images=save_pictures(folder, key, "reconstruction", guess.images),
        labels=guess.labels.tolist(),
        assumptions=[
            *threat_model.knowledge(client, obfuscation).assumptions,
            *client.assumptions,
            *(inside.assumptions if inside else ()),
        ],
        notes=[*guess.notes, *missing, *client.notes],
        versions=_versions(device),
        family=obfuscation.family,
        confidence=[] if guess.confidence is None else guess.confidence.tolist(),
    )
    if enhancer is None or played.restored is None or played.enhanced is None:
        return trial

    guess, alone = align(originals, played.restored), []
    if enhancer.uses_labels:
        drawn = dataclasses.replace(guess, images=from_labels(enhancer, guess, class_names=client.class_names))
        drawn = _as_saved(drawn)
        # In the attack's order it has the right classes, matched anew the likest pixels: to be beaten are both.
        beside_enhanced[LABEL_ALONE] = _scores(metrics, originals, drawn.images)
        beside_enhanced[LABEL_MATCHED] = _scores(metrics, originals, align(originals, drawn).images)
        alone = save_pictures(folder, key, "label-alone", drawn.images)
    return dataclasses.replace(
        trial,
        settings=settings_of(client, obfuscation, attack, threat_model, enhancer),
        seconds=played.seconds + played.enhancing,
        scores=_scores(metrics, originals, guess.images),
        controls=beside_enhanced,
        images=save_pictures(folder, key, "enhanced", guess.images),
        labels=guess.labels.tolist(),
        assumptions=list(dict.fromkeys([*trial.assumptions, *enhancer.assumptions])),
        notes=[*guess.notes, *missing, *client.notes],
        confidence=[] if guess.confidence is None else guess.confidence.tolist(),
        enhanced=dataclasses.replace(played.enhanced, alone=alone, before=trial),
    )


@dataclass(frozen=True, kw_only=True)
class Played:
    """What came of one update.

    Args:
        guess: What the attack rebuilt, in its order, as the 8-bit pictures that a reader sees.
        restored: The same after the enhancer; None without one.
        enhanced: What the enhancer did; None without one.
        wire_bits: Size of what was sent, in bits.
        raw_bits: Size of the same update as plain float32, in bits.
        seconds: Wall time of the attack.
        enhancing: Wall time of the enhancer.
        peak_mib: Peak memory of the process during the attack, MiB; None where it cannot be measured.
    """

    guess: Reconstruction
    restored: Reconstruction | None
    enhanced: Enhanced | None
    wire_bits: int
    raw_bits: int
    seconds: float
    enhancing: float
    peak_mib: float | None


def rebuild(
    client: Client,
    obfuscation: Obfuscation,
    attack: Attack,
    *,
    seed: int,
    threat_model: ThreatModel,
    enhancer: Enhancer | None = None,
    watch: Watch | None,
) -> Played:
    """The straight line from the client's batch to the attacker's pictures; arguments as in `run_trial`."""
    device = client.batch.images.device
    for_client, for_obfuscation, for_attack = generators(seed, device)

    with full_precision(device):
        sent = Update(client.training(client.model, client.batch, generator=for_client))
        _refuse_zeros(sent)
        received = obfuscation(sent, generator=for_obfuscation)
        received.check()
        knowledge = threat_model.knowledge(client, obfuscation, draws=draws_of(for_client))
        with Profiler(device) as meter:
            guess = attack(client.model, received, knowledge, generator=for_attack, watch=meter.unmetered(watch))
        restored, enhanced = None, None
        with Profiler(device) as after:
            if enhancer is not None:
                names = client.class_names
                restored, enhanced = enhance(
                    enhancer, guess, model=client.model, update=received, knowledge=knowledge, class_names=names
                )
    peaks = [peak for peak in (meter.peak_mib, after.peak_mib) if peak is not None]
    return Played(
        guess=_as_saved(guess),
        restored=None if restored is None else _as_saved(restored),
        enhanced=enhanced,
        wire_bits=received.wire_bits,
        raw_bits=Update(sent.tensors).wire_bits,
        seconds=meter.seconds,
        enhancing=after.seconds,
        peak_mib=max(peaks, default=None),
    )


def _control(name: str, client: Client, seed: int) -> Client | None:
    """The client with another batch, drawn from the seed where it is drawn at all."""
    number = int(np.random.SeedSequence([seed, CONTROLS.index(name) + 1]).generate_state(1, np.uint64)[0])
    batch = control_batch(name, client, generator=Generator().manual_seed(number))
    return None if batch is None else client.holding(batch)


def _part_of(watch: Watch | None, number: int, parts: int) -> Watch | None:
    """A watch of one run of several, to whom they are one: its steps count on."""
    if watch is None or parts == 1:
        return watch
    return lambda p: watch(dataclasses.replace(p, step=p.step + number * p.steps, steps=p.steps * parts))


def settings_of(
    client: Client,
    obfuscation: Obfuscation,
    attack: Attack,
    threat_model: ThreatModel,
    enhancer: Enhancer | None = None,
) -> dict[str, str]:
    """The settings of one trial, which together with its seed are its identity."""
    return {
        "client": client.name,
        "model": client.model_name,
        **client.given,
        "images": str(client.source),
        "batch": shape_of(client.batch),
        "training": str(client.training),
        "obfuscation": str(obfuscation),
        "attack": str(attack),
        "threat_model": str(threat_model),
        "arithmetic": arithmetic_of(attack, client.batch.images.device),
        **({} if enhancer is None else {"enhancer": str(enhancer)}),
    }


def arithmetic_of(attack: Attack, device: torch.device) -> str:
    """What the attack's roughest steps are computed in; float32 for one that has none."""
    return arithmetic_on(device) if isinstance(attack, TakesRoughSteps) and attack.is_rough else "float32"


def generators(seed: int, device: torch.device) -> tuple[Generator, Generator, Generator]:
    """Generators for the client, the channel and the attack, so that none shifts what the others draw."""
    client, channel, attack = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    return (
        Generator(device).manual_seed(int(client)),
        Generator(device).manual_seed(int(channel)),
        Generator(device).manual_seed(int(attack)),
    )


def _refuse_zeros(sent: Update) -> None:
    if sent.is_zero:
        raise UsageError(
            "the update is all zeros, so there is nothing in it to attack; "
            "check that the client's model is not frozen and that its pictures reach the loss"
        )


def _as_saved(guess: Reconstruction) -> Reconstruction:
    """The guess as the 8-bit picture that the reader sees, which is what the scores are of."""
    # A diverged attack may hand back NaN, which no picture can show and no matching can order.
    images = guess.images.detach().float().nan_to_num(nan=GREY).clamp(0, 1)
    return dataclasses.replace(guess, images=(images * 255).round() / 255)


def _scores(metrics: Mapping[str, Metric], originals: Images, guess: Images) -> dict[str, list[float]]:
    return {name: metric.score(originals, guess).tolist() for name, metric in metrics.items()}


def _thinned(losses: Sequence[float]) -> list[float]:
    if len(losses) <= CURVE:
        return [float(loss) for loss in losses]
    return [float(losses[round(i * (len(losses) - 1) / (CURVE - 1))]) for i in range(CURVE)]


def shape_of(batch: Batch) -> str:
    """Pictures, channels, height and width, as results name a batch."""
    return " x ".join(map(str, batch.images.shape))


def _versions(device: torch.device) -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "numpy", "scikit-image")}
    own = {"unveil": __version__, "python": platform.python_version()}
    return {**own, **packages, "device": str(device), **machine(device)}
