"""What is kept of a trial; plain JSON throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Enhanced:
    """What an enhancer did to the pictures of one trial; plain JSON throughout.

    Args:
        misfit_before: How badly the attack's pictures explain the update, in the attacker's own terms.
        misfit_after: The same for the pictures that were kept.
        share: How much of the enhancer's change was kept, 0 to 1: a restorer may not raise the misfit.
        alone: Paths of what it draws from the labels alone, without any update; empty where it does not use labels.
        before: The trial as it is without the enhancer: what the attack itself achieved, pictures and controls too.
    """

    misfit_before: float
    misfit_after: float
    share: float
    alone: list[str] = field(default_factory=list)
    before: Trial | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One client, one channel, one attack, one seed, and what came of it; plain JSON throughout.

    Args:
        settings: SPEC strings and names: client, model, images, batch, training, obfuscation, attack, knowledge; and
            arithmetic, what the attack's roughest steps were computed in.
        seed: The seed of the channel's and the attack's randomness.
        wire_bits: Size of what was sent, in bits.
        raw_bits: Size of the same update with every entry written in full, in bits.
        seconds: Wall time of the attack.
        iterations: Optimisation steps taken.
        peak_mib: Peak memory of the process during the attack, MiB; None where it cannot be measured.
        stop: Why the attack ended, a sentence.
        scores: Metric name -> one value per image, in batch order.
        floor: Metric name -> the same, for a blind guess (a mid-grey picture) that never saw the update.
        losses: The attack's loss curve, thinned to at most 200 points.
        originals: Paths of the original pictures, relative to the results' folder.
        images: Paths of the reconstructions, aligned to the originals.
        labels: The labels the attack used, aligned to the originals.
        assumptions: What was granted to the attacker, a sentence each.
        notes: What else a reader must know, a sentence each.
        versions: Package -> version; what the processor is and has.
        family: Family of the obfuscation, in its own word.
        confidence: How sure the attack was of each picture, aligned to the originals; empty where it did not say.
        controls: Control -> metric -> one value an image: what the same attack scored, against the same originals,
            on an update that knows nothing of them.
        enhanced: What the enhancer did; None without one.
    """

    settings: Mapping[str, str]
    seed: int
    wire_bits: int
    raw_bits: int
    seconds: float
    iterations: int
    peak_mib: float | None
    stop: str
    scores: Mapping[str, list[float]]
    floor: Mapping[str, list[float]]
    losses: list[float]
    originals: list[str]
    images: list[str]
    labels: list[int]
    assumptions: list[str]
    notes: list[str]
    versions: Mapping[str, str]
    family: str = ""
    confidence: list[float] = field(default_factory=list)
    controls: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    enhanced: Enhanced | None = None
