"""One trial of a recorded update: attack it, and say what speaks for the pictures, with or without the originals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Generator

from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.explained import explained_share
from unveil.attacks.separation.state import Problem
from unveil.audits.controls import CONTROLS, LABELS
from unveil.audits.pipeline import Outcome, attacked
from unveil.audits.recorded.client import RecordedClient
from unveil.audits.trial import arithmetic_of, as_saved, part_of, scores_of, thinned, versions_on
from unveil.clients.sending import obfuscated, trained_update
from unveil.core.arithmetic import chosen_precision
from unveil.core.batch import Batch
from unveil.core.binding import for_client
from unveil.core.metric import Metric
from unveil.core.pixels import GREY, eight_bit
from unveil.core.protocols import Attack, UsesLearnedPrior
from unveil.core.randomness import generators
from unveil.core.reconstruction import Reconstruction
from unveil.core.records import ATTACK, ORIGINAL, Plausibility, ScoredOutcome, Trial
from unveil.core.types import Images
from unveil.core.update import Update
from unveil.core.watch import Watch
from unveil.enhancers.consistency import refuse_seen
from unveil.metrics import CATALOGUE as METRICS
from unveil.metrics.alignment import align
from unveil.obfuscations.layers import Layers


def run_recorded_trial(
    client: RecordedClient,
    attack: Attack,
    *,
    seed: int = 0,
    metrics: Mapping[str, Metric] = METRICS,
    watch: Watch | None = None,
) -> Trial:
    """Run one trial in memory: the attack on the recorded update, and on the update of synthetic pictures.

    The second is the control. It has the labels of the first (known, or as the attack inferred them), and what is known
    of local training and obfuscation. Its own pictures are known, so it also rehearses the attack.

    Args:
        client: The recorded client.
        attack: The attack.
        seed: A whole number of at least 0.
        metrics: The metrics by name. Without the client's pictures only the rehearsal is scored.
        watch: Called after each step of both attacks.

    Raises:
        UsageError: A component cannot work with this client.
    """
    learned = attack.prior if isinstance(attack, UsesLearnedPrior) else None
    if learned is not None and client.truth is not None:
        refuse_seen(learned, client.truth)
    device = client.update_device
    for_client_, for_obfuscation, for_attack = generators(seed)
    leaves = _leaves(client, seed)
    rehearsal_blind = scores_of(metrics, leaves, torch.full_like(leaves, GREY))  # first: a metric may refuse them
    outcome = attacked(
        client.model, client.update, client.knowledge, attack, generator=for_attack, watch=part_of(watch, 0, 2)
    )
    labels = outcome.attack.labels if client.knowledge.labels is None else client.knowledge.labels
    batch = Batch(leaves, labels.to(device).long())
    update = _sent(client, batch, for_client_, for_obfuscation)
    _, _, again = generators(seed)
    null = attacked(client.model, update, client.knowledge, attack, generator=again, watch=part_of(watch, 1, 2))

    found, other = as_saved(outcome.attack), as_saved(null.attack)
    rehearsed = align(leaves, other)
    plausibility = Plausibility(
        explained=_explained(client, found, seed),
        control=_explained(client, other, seed),
        rehearsal=scores_of(metrics, leaves, rehearsed.images),
        rehearsal_blind=rehearsal_blind,
    )
    blind, scores, controls = {}, {}, {}
    pictures: dict[str, Images] = {}
    if client.truth is not None:
        found = align(client.truth, found)
        blind = scores_of(metrics, client.truth, torch.full_like(client.truth, GREY))
        scores = scores_of(metrics, client.truth, found.images)
        controls = {LABELS: scores_of(metrics, client.truth, align(client.truth, other).images)}
        pictures[ORIGINAL] = eight_bit(client.truth)
    pictures[ATTACK] = found.images
    known = client.knowledge.obfuscation
    return Trial(
        settings=recorded_settings(client, attack),
        family="other" if known is None else known.family,
        seed=seed,
        wire_bits=client.update.wire_bits,
        raw_bits=client.update.in_full.wire_bits,
        iterations=len(outcome.attack.losses),
        peak_mib=outcome.peak_mib,
        stop=outcome.attack.stop,
        losses=thinned(outcome.attack.losses),
        blind=blind,
        outcomes={
            ATTACK: ScoredOutcome(
                scores=scores,
                controls=controls,
                labels=found.labels.tolist(),
                seconds=outcome.seconds,
                assumptions=[*_assumptions(client, outcome), *(learned.assumptions if learned else ())],
                notes=[*found.notes, *client.notes],
                confidence=[] if found.confidence is None else found.confidence.tolist(),
                plausibility=plausibility,
            )
        },
        layers=known.choice if isinstance(known, Layers) else None,
        privacy=list(client.privacy),
        metrics={name: metric.facts for name, metric in metrics.items()},
        versions=versions_on(device),
        pictures=pictures,
    )


def recorded_settings(client: RecordedClient, attack: Attack) -> dict[str, str]:
    """Return the settings of one trial by name. Together with its seed they identify it."""
    given = {"weights": client.weights, "normalise": client.normalisation}
    return {
        "client": client.name,
        "model": client.model_name,
        **{name: value for name, value in given.items() if value},
        "images": "recorded" if client.truth is None else "recorded, originals at hand",
        "batch": " x ".join(map(str, client.shape)),
        "training": client.training,
        "obfuscation": client.obfuscation,
        "attack": str(attack),
        "threat_model": str(client.threat_model),
        "arithmetic": arithmetic_of(attack, client.update_device),
        "recording": client.digest,
    }


def _leaves(client: RecordedClient, seed: int) -> Images:
    """Return dead leaves, as many as the client has pictures and of their shape."""
    number = int(np.random.SeedSequence([seed, CONTROLS.index(LABELS) + 1]).generate_state(1, np.uint64)[0])
    known = client.knowledge
    leaves = dead_leaves(known.num_images, known.image_shape, generator=Generator().manual_seed(number))
    return leaves.to(client.update_device)


def _sent(client: RecordedClient, batch: Batch, for_training: Generator, for_obfuscation: Generator) -> Update:
    """Return the update of other pictures, with the assumed local training and the known obfuscation."""
    training, obfuscation = client.knowledge.training, client.knowledge.obfuscation
    with chosen_precision(client.update_device):
        sent = trained_update(training, client.model, batch, generator=for_training)
        sent = Update({name: sent.tensors[name] for name in client.update.tensors}, buffers=sent.buffers)
        if obfuscation is None:
            return sent
        own = for_client(obfuscation, client.model, batch, training)
        return obfuscated(sent, own, generator=for_obfuscation, training=training)


def _explained(client: RecordedClient, guess: Reconstruction, seed: int) -> float:
    """Return how much of the update pictures explain; see `explained_share`."""
    problem = Problem(
        model=client.model,
        update=client.update,
        knowledge=client.knowledge,
        labels=guess.labels if client.knowledge.labels is None else client.knowledge.labels,
        generator=generators(seed)[1],
    )
    return explained_share(problem, guess.images, blank=torch.full_like(guess.images, GREY))


def _assumptions(client: RecordedClient, outcome: Outcome) -> list[str]:
    extra = [f"The model's weights are those of {client.weights}, and the attacker has them."] if client.weights else []
    if client.normalisation:
        extra.append(f"Pictures in [0, 1] are normalised before the model, {client.normalisation}.")
    if client.knowledge.obfuscation is None:
        extra.append("The control's update was not obfuscated, because the obfuscation is not known.")
    return [*outcome.knowledge.assumptions, *extra]
