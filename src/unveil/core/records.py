"""The record of a trial. All of it but `Trial.pictures` is plain JSON; docs/results.md documents the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unveil.core.guarantees import PrivacyStatement
from unveil.core.metric import MetricFacts
from unveil.core.reconstruction import Stop

FORMAT = 2
"""Version of the records in a results folder; a folder of another version is refused."""

BASELINE = "none"
"""The obfuscation of the baseline, which changes nothing; all other obfuscations are compared with it."""

UNKNOWN = "unknown"
"""Begins what settings say of the obfuscation or the training of a recorded update where it is not known."""

ATTACK, ENHANCED = "attack", "enhanced"
"""Names of a trial's outcomes: the attack's own pictures, and the pictures after the enhancer."""

ORIGINAL, PRIOR_ONLY = "original", "prior-only"
"""Names of a trial's other pictures: the client's, and those that the enhancer draws from the labels alone."""


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """What an enhancer did to the pictures of one trial.

    Args:
        misfit_before: Misfit of the attack's pictures, in the objective that fits the attacker's knowledge.
        misfit_after: Misfit of the pictures after the enhancer.
        share: Share of the enhancer's change that was kept, 0 to 1; a restorer's change may not raise the misfit.
        prior_only: Paths of the pictures that the enhancer draws from the labels alone; empty if it does not use
            labels, and before the trial is saved.
    """

    misfit_before: float
    misfit_after: float
    share: float
    prior_only: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Plausibility:
    """What speaks for the pictures of a recorded update without its originals.

    Args:
        explained: How much of the update the pictures explain; 1 for all of it, 0 for no more than grey pictures; see
            `attacks.separation.explained`.
        control: The same of the pictures that the attack makes of the update of synthetic pictures.
        rehearsal: Metric name -> one value for each synthetic picture: what the attack scores on their update.
        rehearsal_blind: The same for grey pictures.
    """

    explained: float
    control: float
    rehearsal: Mapping[str, list[float]]
    rehearsal_blind: Mapping[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """Which layers of the network a client sends, where nothing else changes the update.

    Args:
        named: Parameters, modules or words as in the obfuscation `layers`, such as `head`.
        kept_back: Whether everything but these is sent, instead of these alone.
    """

    named: list[str]
    kept_back: bool


@dataclass(frozen=True, kw_only=True)
class ScoredOutcome:
    """The scores of one set of reconstructions; lists have one value for each picture, in batch order.

    Args:
        scores: Metric name -> one value for each picture.
        controls: Control -> metric name -> one value for each picture: the scores of the same attack, against the same
            originals, on an update that does not depend on them.
        images: Paths of the reconstructions, relative to the results folder; empty before the trial is saved.
        labels: The label that the attack assigned to each picture.
        seconds: Wall time in seconds until these pictures were computed.
        assumptions: What the attacker was assumed to know, a sentence each.
        notes: What else a reader must know, a sentence each.
        confidence: The attack's confidence in each picture, which ranks them and has no unit; empty if it gave none.
        enhancement: What the enhancer did; None for the attack's own pictures.
        plausibility: What speaks for the pictures without their originals; None for a simulated client.
    """

    scores: Mapping[str, list[float]]
    controls: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    seconds: float = 0.0
    assumptions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    enhancement: Enhancement | None = None
    plausibility: Plausibility | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One client, threat model, obfuscation, attack and seed, with the scores.

    Args:
        settings: SPEC strings and names: client, model, images, batch, training, obfuscation, attack, threat_model;
            arithmetic, the number format of the attack's roughest steps; enhancer, if there is one; recording, of a
            recorded update.
        family: Family of the obfuscation, in its own word.
        seed: Seed of the randomness of client, obfuscation and attack.
        wire_bits: Size of the sent update, in bits.
        raw_bits: Size of the same update with every entry written in full, in bits.
        iterations: Number of optimisation steps that the attack took.
        peak_mib: Peak memory of the process during attack and enhancer, in MiB; None if it cannot be measured.
        stop: Why the attack ended.
        losses: The attack's loss curve, thinned to at most 200 points.
        blind: Metric name -> one value for each picture of the blind guess, a mid-grey picture.
        outcomes: `attack`, and with an enhancer `enhanced`, in that order.
        originals: Paths of the original pictures, relative to the results folder; empty before the trial is saved, and
            for a recorded update of which they are not known.
        checksums: Path of each picture -> the first 16 hexadecimal digits of the SHA-256 of its file; empty before the
            trial is saved, and in records of former versions.
        privacy: What is guaranteed of the update's differential privacy, a statement for each unit; empty where
            nothing is clipped, no noise is added, and nobody asked.
        without_noise: SPEC of the same local training without noise, whose update is the baseline; empty if the local
            training adds none.
        cohort_of: Name that the client shares with cohorts of other sizes of the same table of the audit file; empty
            where the table gives one size.
        rounds_of: The same for clients of other numbers of rounds.
        layers: The choice of layers, where the obfuscation is nothing else; None otherwise.
        chance: For each picture the probability of being found first in the gallery by somebody who knows its label and
            has no update; empty without decoys of the same source.
        metrics: Metric name -> its title, unit, digits and direction, for a reader who does not have the metric.
        versions: Package -> version; and what `arithmetic.machine` says of the machine.
        format: Version of this record, `FORMAT`.
        pictures: Name -> pictures, n x c x h x w in [0, 1]: `original`, one for each outcome, and `prior-only` if the
            enhancer uses labels. They are kept in memory only: empty for a trial that was read from a folder.
    """

    settings: Mapping[str, str]
    family: str
    seed: int
    wire_bits: int
    raw_bits: int
    iterations: int
    peak_mib: float | None
    stop: Stop
    losses: list[float]
    blind: Mapping[str, list[float]]
    outcomes: Mapping[str, ScoredOutcome]
    originals: list[str] = field(default_factory=list)
    checksums: Mapping[str, str] = field(default_factory=dict)
    privacy: list[PrivacyStatement] = field(default_factory=list)
    without_noise: str = ""
    cohort_of: str = ""
    rounds_of: str = ""
    layers: LayerChoice | None = None
    chance: list[float] = field(default_factory=list)
    metrics: Mapping[str, MetricFacts] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    pictures: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def final(self) -> ScoredOutcome:
        """The last outcome: `enhanced` if there is an enhancer, else `attack`."""
        return list(self.outcomes.values())[-1]

    @property
    def scores(self) -> Mapping[str, list[float]]:
        """The scores of the last outcome: metric name -> one value for each picture."""
        return self.final.scores
