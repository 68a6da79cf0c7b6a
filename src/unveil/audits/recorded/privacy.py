"""Differential privacy of a recorded update, as far as its manifest says what was clipped, noised and sampled."""

from __future__ import annotations

from dataclasses import replace

from unveil.captures.manifest import Manifest
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.guarantees import PrivacyStatement
from unveil.core.protocols import BufferSetting, LocalTraining, Obfuscation
from unveil.obfuscations.none import Identity
from unveil.privacy.statements import privacy_statements
from unveil.privacy.terms import PrivacyTerms

FACTS = ("clip", "noise", "expected", "update_clip", "sampling", "dataset", "rounds", "delta", "adjacency")
"""Facts of a manifest that are about differential privacy; `claimed_epsilon` is beside them."""

UNCOUNTED = "The recording says that gradients are clipped, but not in how many steps an example was used."
BESIDE = "The buffers that were sent went through the same clipping and the same noise."


def stated(
    facts: Manifest, obfuscation: Obfuscation | None, *, is_gradient: bool, pictures: int, buffers: BufferSetting
) -> list[PrivacyStatement]:
    """Return what holds if the client did what its manifest says; nothing where it says nothing of noise or clipping.

    Args:
        facts: The manifest.
        obfuscation: The obfuscation that the manifest names; None for none.
        is_gradient: Whether the update is one gradient.
        pictures: Number of pictures in the update.
        buffers: What became of the buffers that training changed.

    Raises:
        UsageError: The facts cannot be used together, or Opacus is needed for Poisson sampling and not installed.
    """
    terms = _terms(facts, is_gradient=is_gradient)
    training = _training(facts, is_gradient=is_gradient, buffers=buffers)
    known = [name for name in FACTS if getattr(facts, name).value is not None]
    asked = terms if known or facts.claimed_epsilon.value is not None else None
    found = privacy_statements(
        training or FedSGD(buffers=buffers),
        obfuscation or Identity(),
        pictures,
        asked,
        update_clip=facts.update_clip.value,
    )
    if training is None and not any(statement.epsilon is not None for statement in found):
        found = [replace(statement, unit="example", reason=UNCOUNTED) for statement in found[:1]]
    sources = ", ".join(sorted({str(getattr(facts, name).source) for name in (*known, "obfuscation")} - {"unknown"}))
    trusted = f"The client clipped and added noise as its recording says ({sources}), which the update does not show."
    beside = [BESIDE] if buffers == "obfuscated" else []
    return [replace(s, assumptions=[*s.assumptions, trusted, *beside]) if s.epsilon is not None else s for s in found]


def _training(facts: Manifest, *, is_gradient: bool, buffers: BufferSetting) -> LocalTraining | None:
    """Return the local training as far as it matters here; None if the number of its clipped steps is not known.

    The optimiser does not matter: whatever it does with noisy gradients costs nothing.
    """
    clip, noise = facts.clip.value, facts.noise.value or 0.0
    if clip is None:
        return FedSGD(buffers=buffers)
    is_sum = facts.loss_reduction.value == "sum"
    expected = None if is_sum else facts.expected.value
    if is_gradient:
        return FedSGD(clip=clip, noise=noise, expected=expected, reduction="sum" if is_sum else "mean", buffers=buffers)
    # Poisson samples are drawn of all examples in each step: there are no mini-batches which share them out.
    is_drawn = facts.sampling.value == "poisson"
    steps, epochs = facts.steps.value, None if is_drawn else facts.epochs.value
    if not steps and not epochs:
        return None
    return FedAvg(
        steps=steps,
        epochs=None if steps else epochs,
        lr=1.0,
        batch_size=None if is_drawn else facts.batch_size.value,
        clip=clip,
        noise=noise,
        expected=expected,
        reduction="sum" if is_sum else "mean",
        buffers=buffers,
    )


def _terms(facts: Manifest, *, is_gradient: bool) -> PrivacyTerms:
    given = {
        "delta": facts.delta.value,
        "rounds": facts.rounds.value,
        "sampling": facts.sampling.value,
        "dataset": facts.dataset.value,
        "adjacency": facts.adjacency.value,
        "claimed_epsilon": facts.claimed_epsilon.value,
    }
    terms = PrivacyTerms(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    return terms if is_gradient else replace(terms, each="step")
