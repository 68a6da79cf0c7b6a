"""Several obfuscations one after the other, such as top-k, then QSGD on what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.binding import for_client, for_receiver
from unveil.core.errors import UsageError
from unveil.core.protocols import EntryModel, HasEntryModels, LocalTraining, MayRescale, Misfit, Obfuscation
from unveil.core.types import Block, Family
from unveil.core.update import Update
from unveil.obfuscations.before_encoders import encoder_of, in_the_mean
from unveil.obfuscations.composition import changers, choosers, explainer, gains, put_through
from unveil.obfuscations.explaining import bounded, combined, judged
from unveil.obfuscations.none import Identity
from unveil.obfuscations.roles import Encoder, Largest, Withholding, atoms, is_deterministic
from unveil.obfuscations.variances import entry_models
from unveil.obfuscations.wire import UNSENT


@dataclass(frozen=True)
class Pipeline:
    """Apply the stages in order.

    Wire cost: values as the last stage that codes them sends them, with what it sends beside them, and the positions
    that the sparsifiers leave. The observation model is put together in `composition` and `explaining`.

    Args:
        stages: Two or more obfuscations.
    """

    name: ClassVar[str] = "pipeline"
    family: ClassVar[Family] = "pipeline"
    stages: tuple[Obfuscation, ...]

    def __post_init__(self) -> None:
        if len(self.stages) < 2:
            raise UsageError(f"Pipeline: expected at least two stages, got {len(self.stages)}; use the stage itself")
        for stage in atoms(self.stages)[1:]:
            if isinstance(stage, Withholding):
                raise UsageError(
                    f"Pipeline: {stage} stands behind another stage; put it first, and the others behind it"
                )

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Apply every stage; see `Obfuscation`."""
        return applied(atoms(self.stages), update, generator)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """What the stages say of what was sent, and the sparsifier of the rest; see `explaining` and `Obfuscation`."""
        stages = atoms(self.for_receiver(received).stages)
        at = encoder_of(stages)
        if at is not None:
            return _misfit_of_arrays(stages, at, received)
        through = put_through(stages, received)
        explained = judged(stages, received, sent_only=sent_only)
        return lambda candidate: explained(through(candidate))

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """Of sent entries those of the stages that explain them, of the rest the sparsifier's; see `HasEntryModels`."""
        stages = atoms(self.stages)
        if stages and isinstance(first := stages[0], Withholding):
            models = first.entry_models(received) if isinstance(first, HasEntryModels) else {}
            behind = joined(stages[1:])
            known = behind.entry_models(first.arrived(received)) if isinstance(behind, HasEntryModels) else {}
            return {**models, **known}
        if encoder_of(stages) is not None:
            return {}
        places, inner = choosers(stages), _models_of_sent(stages, received)
        if not places:
            return inner
        last = stages[places[-1]]
        moved = bounded(stages, received) if isinstance(last, Largest) else None
        thresholds = last.thresholds(received, moved) if isinstance(last, Largest) and moved is not None else {}
        own = gains(stages, received)
        return {
            name: partial(believed, y, received.sent(name), inner.get(name), thresholds.get(name), own[name])
            for name, y in received.tensors.items()
            if y.dim() == 2
        }

    def for_client(self, model: Module, batch: Batch, training: LocalTraining) -> Pipeline:
        """The pipeline with every stage as this client applies it; see `NeedsClient`."""
        return Pipeline(tuple(for_client(stage, model, batch, training) for stage in self.stages))

    def for_receiver(self, received: Update) -> Pipeline:
        """The pipeline with every stage as an attacker rehearses it; see `NeedsClient`."""
        return Pipeline(tuple(for_receiver(stage, received) for stage in self.stages))

    @property
    def scale_unknown(self) -> bool:
        """Whether any of the stages does; see `MayRescale`."""
        return any(stage.scale_unknown for stage in self.stages if isinstance(stage, MayRescale))

    @property
    def parts(self) -> Sequence[Obfuscation]:
        """The stages; see `Composite`."""
        return self.stages

    def __str__(self) -> str:
        """The stages' SPECs joined by `+`."""
        return "+".join(str(stage) for stage in self.stages)


def joined(stages: Sequence[Obfuscation]) -> Obfuscation:
    """Some stages, or none, as one obfuscation."""
    if len(stages) > 1:
        return Pipeline(tuple(stages))
    return stages[0] if stages else Identity()


def applied(stages: Sequence[Obfuscation], update: Update, generator: Generator) -> Update:
    """The stages one after the other; those behind an encoder on the arrays that it sends."""
    for i, stage in enumerate(stages):
        if isinstance(stage, Encoder):
            return stage.decode(applied(stages[i + 1 :], stage.encode(update), generator), update.tensors)
        update = stage(update, generator=generator)
    return update


def _misfit_of_arrays(stages: Sequence[Obfuscation], at: int, received: Update) -> Misfit:
    """The stages behind an encoder judge the arrays that it would send for a candidate, as those before make it.

    Behind a random stage the arrays of the candidate are others than those that were sent, while what the encoder
    itself says is still right in the mean.
    """
    before, encoder, behind = stages[:at], stages[at], stages[at + 1 :]
    assert isinstance(encoder, Encoder)
    through = in_the_mean(before)
    if not behind or not all(is_deterministic(stage) for stage in before):
        explained = encoder.misfit(received)
        return lambda candidate: explained(through(candidate))
    judged_arrays = joined(behind).misfit(received.encoded or encoder.encode(received))
    return lambda candidate: judged_arrays(encoder.encoded(through(candidate)))


def _models_of_sent(stages: Sequence[Obfuscation], received: Update) -> Mapping[str, EntryModel]:
    """The entry models of the stage that explains what was sent, or of several together; none where it is exact."""
    at = explainer(stages, received)
    if at is None:
        return entry_models(received, combined(stages, received)) if changers(stages) else {}
    stage = stages[at]
    return stage.entry_models(received) if isinstance(stage, HasEntryModels) else {}


def believed(
    received: Float[Tensor, "rows columns"],
    sent: Bool[Tensor, "rows columns"] | None,
    inner: EntryModel | None,
    threshold: float | None,
    gain: float,
    expected: Float[Tensor, "some few"],
    block: Block,
) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]]:
    """An entry model of what sparsifiers and other stages leave; see `EntryModel`.

    What was sent is as the inner entry model has it, or else exact; the rest is below the threshold, or else unknown.

    Args:
        received: What was received of a matrix.
        sent: Which entries were sent; None for all.
        inner: The entry model of what was sent; None where that is exact.
        threshold: Largest magnitude of an entry that was not sent; None if nothing is known of it.
        gain: What sparsifiers multiplied what they sent by.
        expected: What is expected of the entries of a block.
        block: The block.
    """
    expected = expected * gain
    y = received[block]
    target, weight = inner(expected, block) if inner is not None else (y, torch.ones_like(y))
    if sent is not None:
        mask = sent[block]
        rest = expected if threshold is None else expected.clamp(-threshold, threshold)
        target = torch.where(mask, target, rest)
        weight = torch.where(mask, weight, 0.0 if threshold is None else UNSENT)
    return target / gain, weight
