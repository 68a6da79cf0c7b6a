"""One trial: play the line for the client and for each control, and score everything against the same originals."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
import torch
from torch import Generator

from unveil import __version__
from unveil.audits.controls import CONTROLS, chosen, control_batch, copies_in_batch
from unveil.audits.pipeline import EVERYTHING, Outcome, play
from unveil.audits.threat_model import ThreatModel
from unveil.clients.client import Client
from unveil.core.arithmetic import arithmetic_on, machine
from unveil.core.batch import Batch
from unveil.core.metric import Metric
from unveil.core.pixels import GREY, eight_bit
from unveil.core.protocols import Attack, Enhancer, Obfuscation, TakesRoughSteps, UsesLearnedPrior
from unveil.core.reconstruction import Reconstruction
from unveil.core.records import ATTACK, ENHANCED, ORIGINAL, PRIOR_ONLY, ScoredOutcome, Trial
from unveil.core.types import Images
from unveil.core.usercode import running_others
from unveil.core.watch import Watch
from unveil.enhancers.consistency import from_labels, refuse_seen
from unveil.metrics import CATALOGUE as METRICS
from unveil.metrics.alignment import align
from unveil.obfuscations.layers import Layers
from unveil.privacy.statements import privacy_statements
from unveil.privacy.terms import PrivacyTerms

CURVE = 200  # most points of a loss curve in a record
LABEL_ALONE, LABEL_MATCHED = "prior only", "prior only, matched"  # controls of an enhancer that uses labels

Scores = dict[str, list[float]]


def run_trial(
    client: Client,
    obfuscation: Obfuscation,
    attack: Attack,
    *,
    seed: int = 0,
    threat_model: ThreatModel = EVERYTHING,
    metrics: Mapping[str, Metric] = METRICS,
    controls: Sequence[str] = (),
    enhancer: Enhancer | None = None,
    privacy: PrivacyTerms | None = None,
    chance: Sequence[float] = (),
    watch: Watch | None = None,
) -> Trial:
    """Run one trial in memory, from the client's training to the scores.

    Args:
        client: The client.
        obfuscation: What changes the update on its way to the server.
        attack: The attack.
        seed: A whole number of at least 0; see `play`.
        threat_model: Which facts the attacker is granted.
        metrics: The metrics by name.
        controls: Names of `CONTROLS`; the same attack is run on each, and scored against the client's pictures.
        enhancer: The network that changes the pictures of the attack and of the controls; None for none.
        privacy: The terms on which differential privacy is stated; None for the usual ones, where there is any noise or
            clipping.
        chance: For each picture the probability of being found first in the gallery without the update; see `Trial`.
        watch: Called after each step of the attacks; its time does not count as the attack's.

    Raises:
        UsageError: The update is all zeros or not finite, a component cannot work with this client, or an enhancer was
            trained on its pictures.
    """
    originals = client.batch.images
    learned = attack.prior if isinstance(attack, UsesLearnedPrior) else None
    for prior in (enhancer, learned):
        if prior is not None:
            refuse_seen(prior, originals)
    blind = scores_of(metrics, originals, torch.full_like(originals, GREY))  # first: a metric may refuse them

    controls, replaced = chosen(controls, client)
    others = {name: other for name in controls if (other := _control(name, client, seed)) is not None}
    runs = len(others) + 1
    outcomes: list[Outcome] = []
    for number, played in enumerate((*others.values(), client)):
        outcomes.append(
            play(
                played,
                obfuscation,
                attack,
                threat_model=threat_model,
                seed=seed,
                enhancer=enhancer,
                watch=part_of(watch, number, runs),
            )
        )
    *null, outcome = outcomes

    assumptions = [*outcome.knowledge.assumptions, *client.assumptions, *(learned.assumptions if learned else ())]
    missing = [f"The control {c!r} was not run: its source has too few pictures." for c in controls if c not in others]
    notes = [*missing, *replaced, *copies_in_batch(client), *client.notes]

    def scored(guess: Reconstruction, unknowing: Sequence[Reconstruction]) -> ScoredOutcome:
        pairs = zip(others, unknowing, strict=True)
        return ScoredOutcome(
            scores=scores_of(metrics, originals, guess.images),
            controls={c: scores_of(metrics, originals, align(originals, other).images) for c, other in pairs},
            labels=guess.labels.tolist(),
            seconds=outcome.seconds,
            assumptions=assumptions,
            notes=[*guess.notes, *notes],
            confidence=[] if guess.confidence is None else guess.confidence.tolist(),
        )

    guess = align(originals, as_saved(outcome.attack))
    results = {ATTACK: scored(guess, [as_saved(other.attack) for other in null])}
    pictures = {ORIGINAL: eight_bit(originals), ATTACK: guess.images}
    if enhancer is not None and outcome.enhanced is not None:
        guess = align(originals, as_saved(outcome.enhanced))
        result = scored(guess, [as_saved(other.final) for other in null])
        pictures[ENHANCED] = guess.images
        extra: dict[str, Scores] = {}
        if enhancer.uses_labels:
            drawn = as_saved(
                dataclasses.replace(guess, images=from_labels(enhancer, guess, class_names=client.class_names))
            )
            # In the attack's order each picture has the right class; matched anew, the most similar pixels.
            # Leakage must exceed both.
            extra[LABEL_ALONE] = scores_of(metrics, originals, drawn.images)
            extra[LABEL_MATCHED] = scores_of(metrics, originals, align(originals, drawn).images)
            pictures[PRIOR_ONLY] = drawn.images
        results[ENHANCED] = dataclasses.replace(
            result,
            controls={**result.controls, **extra},
            seconds=outcome.seconds + outcome.enhancing_seconds,
            assumptions=list(dict.fromkeys([*assumptions, *enhancer.assumptions])),
            enhancement=outcome.enhancement,
        )
    return Trial(
        settings=settings_of(client, obfuscation, attack, threat_model, enhancer),
        family=obfuscation.family,
        seed=seed,
        wire_bits=outcome.received.wire_bits,
        raw_bits=outcome.raw_bits,
        iterations=len(outcome.attack.losses),
        peak_mib=outcome.peak_mib,
        stop=outcome.attack.stop,
        losses=thinned(outcome.attack.losses),
        blind=blind,
        outcomes=results,
        cohort_of=client.cohort_of,
        rounds_of=client.rounds_of,
        layers=obfuscation.choice if isinstance(obfuscation, Layers) else None,
        without_noise="" if (bare := client.without_noise()) is None else str(bare.training),
        privacy=privacy_statements(client.training, obfuscation, len(originals), privacy),
        chance=list(chance),
        metrics={name: metric.facts for name, metric in metrics.items()},
        versions=versions_on(originals.device),
        pictures=pictures,
    )


def _control(name: str, client: Client, seed: int) -> Client | None:
    """The client with the batch of a control; None where its source has too few pictures."""
    number = int(np.random.SeedSequence([seed, CONTROLS.index(name) + 1]).generate_state(1, np.uint64)[0])
    batch = control_batch(name, client, generator=Generator().manual_seed(number))
    return None if batch is None else client.holding(batch)


def refuse_unattackable(client: Client, obfuscation: Obfuscation, *, seed: int, controls: Sequence[str] = ()) -> None:
    """Raise `UnattackableError` if an update of a trial, or of its controls, is all zeros or not finite.

    Nothing is attacked.

    Args:
        client: The client.
        obfuscation: What changes the update on its way to the server.
        seed: The seed of the trial.
        controls: Names of `CONTROLS`.
    """
    names, _ = chosen(controls, client)
    for played in (client, *(_control(name, client, seed) for name in names)):
        if played is not None:
            with running_others(training=client.training, obfuscation=obfuscation):
                played.update(obfuscation, seed=seed)


def part_of(watch: Watch | None, number: int, runs: int) -> Watch | None:
    """A watch for run `number` of `runs` that continues the step count of the runs before it."""
    if watch is None or runs == 1:
        return watch
    return lambda p: watch(dataclasses.replace(p, step=p.step + number * p.steps, steps=p.steps * runs))


def as_saved(guess: Reconstruction) -> Reconstruction:
    """The reconstruction with pictures rounded to 8 bits: the scored pictures are those that a reader sees."""
    # Rounding also replaces the NaN of a diverged attack, which cannot be matched.
    return dataclasses.replace(guess, images=eight_bit(guess.images))


def settings_of(
    client: Client,
    obfuscation: Obfuscation,
    attack: Attack,
    threat_model: ThreatModel,
    enhancer: Enhancer | None = None,
) -> dict[str, str]:
    """The settings of one trial by name. Together with its seed they identify it."""
    return {
        "client": client.name,
        "model": client.model_name,
        **client.given,
        **({} if client.cohort == 1 else {"cohort": str(client.cohort)}),
        **({"cohort_obfuscates": "each"} if client.each_obfuscates else {}),
        **client.over_rounds,
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
    """The type in which the attack takes its rough steps, `bfloat16` or `float32`; `tf32` is that of all steps."""
    found = arithmetic_on(device)
    is_rough = isinstance(attack, TakesRoughSteps) and attack.is_rough
    return found if is_rough or found == "tf32" else "float32"


def shape_of(batch: Batch) -> str:
    """Images x channels x height x width, as text."""
    return " x ".join(map(str, batch.images.shape))


def scores_of(metrics: Mapping[str, Metric], originals: Images, guess: Images) -> Scores:
    """One value for each picture, by metric."""
    return {name: metric.score(originals, guess).tolist() for name, metric in metrics.items()}


def thinned(losses: Sequence[float]) -> list[float]:
    """At most `CURVE` points of the curve, at equal distances, the first and the last among them."""
    if len(losses) <= CURVE:
        return [float(loss) for loss in losses]
    return [float(losses[round(i * (len(losses) - 1) / (CURVE - 1))]) for i in range(CURVE)]


def versions_on(device: torch.device) -> dict[str, str]:
    """Versions of the packages that decide numbers, and what the machine is."""
    packages = {name: version(name) for name in ("torch", "numpy", "scikit-image")}
    own = {"unveil": __version__, "python": platform.python_version()}
    return {**own, **packages, "device": str(device), **machine(device)}
