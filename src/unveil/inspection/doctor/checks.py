"""All checks, in the order in which they are made, and the doctor, who makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torch.nn import Module

from unveil.captures.recording import Recording
from unveil.core.registry import toml_value
from unveil.inspection.doctor import buffers, dropout, finite, frozen, length, mode, momentum, tensors, weights
from unveil.inspection.doctor import normalisation as pixels
from unveil.inspection.doctor.evidence import Evidence
from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.faults import Diagnosis, Fault, Findings, Untold

OF_RECORD: tuple[Callable[[Examined], Findings], ...] = (
    tensors.names_and_shapes,
    finite.finite,
    frozen.frozen_layers,
    buffers.missing_buffers,
    buffers.kept_buffers,
    buffers.counters,
    buffers.obfuscated_buffers,
)
"""Checks of what stands in the file, beside the network where it is at hand."""

OF_EVIDENCE: tuple[Callable[[Evidence], Findings], ...] = (
    momentum.momentum,
    weights.weights,
    mode.mode,
    pixels.normalisation,
    dropout.dropout,
    length.length,
)
"""Checks by rehearsals. What an earlier one corrects holds for the later ones."""

TOLD: Mapping[str, tuple[str, ...]] = {
    "names_and_shapes": (tensors.MISSING, tensors.EXTRA, tensors.REORDERED),
    "finite": (finite.NON_FINITE,),
    "frozen_layers": (frozen.FROZEN,),
    "missing_buffers": (buffers.MISSING,),
    "kept_buffers": (buffers.KEPT,),
    "obfuscated_buffers": (buffers.OBFUSCATED,),
    "counters": (buffers.COUNTERS, buffers.SIGN),
    "weights": (weights.STALE,),
    "mode": (mode.MODE,),
    "normalisation": (pixels.NORMALISATION,),
    "dropout": (dropout.DROPOUT,),
    "momentum": (momentum.MOMENTUM, momentum.STALE, momentum.DECAY),
    "length": (length.SIGN, length.RATE, length.REDUCTION),
}
"""Name of each check -> names of the faults that it may find."""

WORST = ("error", "warning", "note")
SPOILING = (weights.STALE, momentum.MOMENTUM, momentum.DECAY, tensors.REORDERED, finite.NON_FINITE)
"""Faults behind which later checks say nothing."""
BELIEVED = ("mode", "normalisation", "buffers", "sign")
"""Facts which later checks take as the fault says them."""


def diagnose(recording: Recording, network: Module | None = None, obfuscation: str = "none") -> Diagnosis:
    """Look for everything that may be wrong with a recorded update.

    Args:
        recording: The recorded update.
        network: The client's network as its factory builds it, which does not change; None if it is not at hand. The
            weights before the round are taken from the recording.
        obfuscation: SPEC of the obfuscation that the update seems to have gone through, as `fingerprint` names it.

    Returns:
        The faults, the worst first, and what cannot be told.
    """
    found = list(_found(Examined.of(recording, network, obfuscation)))
    faults = [one for one in found if isinstance(one, Fault)]
    named = {fault.name for fault in faults}
    untold = {one.name: one for one in found if isinstance(one, Untold) and one.name not in named}
    return Diagnosis(
        faults=tuple(sorted(faults, key=lambda fault: WORST.index(fault.severity))), untold=tuple(untold.values())
    )


def _found(examined: Examined) -> Iterator[Fault | Untold]:
    named: set[str] = set()
    for check in OF_RECORD:
        for one in check(examined):
            yield one
            if isinstance(one, Fault):
                named.add(one.name)
                examined = _believing(examined, one)
    fits = examined.network is None or examined.fits
    spoilt = next((name for name in SPOILING if name in named), "") or ("" if fits else tensors.EXTRA)
    evidence = Evidence(examined=examined)
    for rehearsed in OF_EVIDENCE:
        if spoilt:
            yield from (
                Untold(name=name, reason=f"first correct the {spoilt}")
                for name in TOLD[rehearsed.__name__]
                if name not in named
            )
            continue
        for one in rehearsed(evidence):
            yield one
            if isinstance(one, Fault):
                named.add(one.name)
                spoilt = spoilt or (one.name if one.name in SPOILING or _leaves_open(one) else "")
                corrected = _believing(evidence.examined, one)
                evidence = evidence if corrected is evidence.examined else Evidence(examined=corrected)


def _leaves_open(fault: Fault) -> bool:
    """Whether later checks would need to know what this one could not tell."""
    return fault.name == pixels.NORMALISATION and fault.fact is None


def _believing(examined: Examined, fault: Fault) -> Examined:
    """The same with the fact that repairs a fault, if it is one of `BELIEVED`."""
    name, _, text = (fault.fact or "").partition("=")
    if name not in BELIEVED:
        return examined
    value = toml_value(text)
    manifest = examined.facts.declaring(**{name: None if value == "unknown" else value})
    return replace(examined, recording=replace(examined.recording, manifest=manifest))
