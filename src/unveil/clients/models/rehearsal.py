"""A rehearsal before an audit: the client trains once on its batch, and the attacker simulates that once.

Some errors of a user's network occur only in train mode, at one batch size, or when it is differentiated twice. The
rehearsal raises them before the audit starts, with the user's own message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Module

from unveil.clients.models.checks import check_outputs, looks_like_probabilities
from unveil.clients.models.factories import ModelName
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.factored import square_norm
from unveil.core.protocols import LocalTraining, loss_of
from unveil.core.types import Tensors
from unveil.core.usercode import running, unchanged

FEW = 2  # pictures that the attacker simulates; more cost memory for the second derivative and show nothing else
ALONE = "Expected more than 1 value per channel"
"""Start of torch's message for BatchNorm in train mode on a single picture."""


def rehearse(
    named: ModelName, model: Module, batch: Batch, classes: int, *, client: LocalTraining, attacker: LocalTraining
) -> tuple[str, ...]:
    """Run the client's local training and the attacker's simulation of it once.

    Args:
        named: The model's name.
        model: The model; it does not change.
        batch: The client's batch.
        classes: Number of classes.
        client: The client's local training, shortened to the steps that are enough to try it.
        attacker: The same for the first `FEW` pictures of the batch.

    Returns:
        What a reader of the results must know of the model, a sentence each.

    Raises:
        UsageError: The model fails, returns no logits, or its update is all zeros or not finite.
    """
    who = f"model {str(named)!r}"
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all()):
            raise UsageError(f"{who}: {name!r} holds NaN or infinite values before any training; correct it")
    probabilities: list[bool] = []

    def looked_at(module: Module, inputs: Any, output: Any) -> None:
        check_outputs(named, output, len(inputs[0]), classes)
        if not bool(torch.isfinite(output).all()):
            raise UsageError(
                f"{who}: its logits hold NaN or infinite values for this batch; check its weights and normalisation"
            )
        probabilities.append(looks_like_probabilities(output))

    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    watched = model.register_forward_hook(looked_at)
    try:
        with unchanged(0):
            try:
                with _by_name(who):
                    sent = _sent(who, model, batch, client)
                    silent = _second_derivative(who, model, batch, attacker)
            finally:  # also after an error, because the changed mode may be its cause
                if torch.is_grad_enabled() != gradients or torch.get_default_dtype() != dtype:
                    raise UsageError(
                        f"{who}: its forward changes torch's gradient mode or default type for the whole process; "
                        "leave torch.set_grad_enabled and torch.set_default_dtype out of it"
                    )
    finally:
        watched.remove()
    return tuple(_notes(model, sent, silent=silent, probabilities=all(probabilities) and loss_of(client).name != "mse"))


@contextmanager
def _by_name(who: str) -> Iterator[None]:
    """Replace `model` at the start of an error's message by the name of this model."""
    try:
        yield
    except UsageError as error:
        if not str(error).startswith("model: "):
            raise
        raise UsageError(f"{who}: {str(error).removeprefix('model: ')}") from error.__cause__


def _sent(who: str, model: Module, batch: Batch, client: LocalTraining) -> Tensors:
    """Return the tensors that the client sends, by parameter name.

    Raises:
        UsageError: Local training fails, or its update is all zeros or not finite.
    """
    mode = f"in {client.mode} mode"
    try:
        with running(f"{who}: training on the {len(batch)} pictures of the batch {mode}", "correct it there"):
            sent = dict(client(model, batch, generator=Generator().manual_seed(0)))
    except UsageError as error:
        if ALONE in str(error.__cause__):
            raise UsageError(
                f"{who}: BatchNorm in train mode cannot normalise a single picture; use mode=eval, a larger batch, or "
                "a batch_size that leaves no picture over"
            ) from error
        raise
    for name, tensor in sent.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UsageError(
                f"{who}: the client's update of {name!r} holds NaN or infinite values; lower its learning rate, or "
                "correct the model"
            )
    if not any(bool(tensor.any()) for tensor in sent.values()):
        raise UsageError(
            f"{who}: the update is all zeros, so there is nothing in it to attack; "
            "check that its weights and the pictures reach the loss"
        )
    return sent


def _second_derivative(who: str, model: Module, batch: Batch, attacker: LocalTraining) -> bool:
    """Return whether attacks that match updates cannot start: the update's slope in the pictures is 0 or not finite."""
    images = batch.images[:FEW].clone().requires_grad_()
    with (
        running(
            f"{who}: the second derivative, which attacks that match updates need,",
            "use operations that torch differentiates twice",
        ),
        torch.enable_grad(),
    ):
        sizes = attacker.simulate(model, Batch(images, batch.labels[:FEW])).values()
        total = torch.stack([square_norm(tensor) for tensor in sizes]).sum()
        (slope,) = torch.autograd.grad(total, images, allow_unused=True)
    return slope is None or not bool(slope.any()) or not bool(torch.isfinite(slope).all())


def _notes(model: Module, sent: Tensors, *, silent: bool, probabilities: bool) -> list[str]:
    """Return a sentence for each fact that a reader must know of the model.

    Args:
        model: The model.
        sent: What the client sends.
        silent: The update has no usable slope in the pictures; see `_second_derivative`.
        probabilities: The model's outputs look like probabilities.
    """
    notes = []
    if probabilities:
        notes.append(
            "The model seems to return probabilities, and the client's loss takes logits: its update is not that of a "
            "usual client. Leave the softmax or the sigmoid out."
        )
    if silent:
        notes.append(
            "The update has no usable slope in the pictures, zero or not finite: attacks that match updates step by "
            "step cannot begin."
        )
    without = [name for name, tensor in sent.items() if not bool(tensor.any())]
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        notes.append(f"The client's update of {without[0]}{more} is all zeros: nothing of the loss reaches it.")
    frozen = sum(not parameter.requires_grad for parameter in model.parameters())
    if frozen:
        notes.append(f"The client trains and sends {len(sent)} of its {len(sent) + frozen} tensors; others are frozen.")
    return notes
