"""What is kept of a trial. Everything but `Trial.pictures` is plain JSON; docs/results.md documents the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unveil.core.metric import MetricFacts
from unveil.core.reconstruction import Stop

FORMAT = 2
"""Version of the records in a results folder; a folder of another version is refused."""

BASELINE = "none"
"""The obfuscation of the row that all others are compared with: the update as it is."""

ATTACK, ENHANCED = "attack", "enhanced"
"""Names of a trial's outcomes: the attack's own pictures, and the same after the enhancer."""

ORIGINAL, PRIOR_ONLY = "original", "prior-only"
"""Names of the other pictures of a trial: the client's, and what the enhancer draws without any update."""


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """What an enhancer did to the pictures of one trial.

    Args:
        misfit_before: How badly the attack's pictures explain the update, in the attacker's own terms.
        misfit_after: The same for the pictures that were kept.
        share: How much of the enhancer's change was kept, 0 to 1: a restorer may not raise the misfit.
        prior_only: Paths of what it draws from the labels alone, without any update; empty where it does not use
            labels, and before the trial is saved.
    """

    misfit_before: float
    misfit_after: float
    share: float
    prior_only: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ScoredOutcome:
    """What one set of reconstructions scored; lists have one value an image, in batch order.

    Args:
        scores: Metric name -> one value an image.
        controls: Control -> metric name -> one value an image: what the same attack scored, against the same
            originals, on an update that knows nothing of them.
        images: Paths of the reconstructions, relative to the results folder; empty before the trial is saved.
        labels: The label that the attack believed each picture to have.
        seconds: Wall time until these pictures were there.
        assumptions: What was granted to the attacker, a sentence each.
        notes: What else a reader must know, a sentence each.
        confidence: How sure the attack was of each picture, in nats or any other unit that ranks them; empty where it
            did not say.
        enhancement: What the enhancer did; None for the attack's own pictures.
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


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One client, one obfuscation, one attack, one seed, and what came of it.

    Args:
        settings: SPEC strings and names: client, model, images, batch, training, obfuscation, attack, threat_model;
            arithmetic, what the attack's roughest steps were computed in; enhancer, where there is one.
        family: Family of the obfuscation, in its own word.
        seed: The seed of the client's, the obfuscation's and the attack's randomness.
        wire_bits: Size of what was sent, in bits.
        raw_bits: Size of the same update with every entry written in full, in bits.
        iterations: Optimisation steps that the attack took.
        peak_mib: Peak memory of the process during attack and enhancer, MiB; None where it cannot be measured.
        stop: Why the attack ended.
        losses: The attack's loss curve, thinned to at most 200 points.
        blind: Metric name -> one value an image for a blind guess, a mid-grey picture that never saw the update.
        outcomes: `attack`, and with an enhancer `enhanced`, in that order.
        originals: Paths of the original pictures, relative to the results folder; empty before the trial is saved.
        metrics: Metric name -> its title, unit, digits and direction, for a reader who does not have the metric.
        versions: Package -> version; what the processor is and has.
        format: Version of this record, `FORMAT`.
        pictures: Name -> images x c x h x w in [0, 1]: `original`, each outcome's, and `prior-only` where the enhancer
            uses labels. In memory alone: empty for a trial that was read from a folder.
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
    metrics: Mapping[str, MetricFacts] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    pictures: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def final(self) -> ScoredOutcome:
        """The last outcome: with the enhancer where there is one."""
        return list(self.outcomes.values())[-1]

    @property
    def scores(self) -> Mapping[str, list[float]]:
        """Metric name -> one value an image, of the last outcome."""
        return self.final.scores
