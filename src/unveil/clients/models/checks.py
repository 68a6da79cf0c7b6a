"""Checks of a client's model: real weights, some of them trained, no TorchScript, one row of logits per picture."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.clients.models.factories import ModelName, Shape
from unveil.core.errors import UsageError


def check_kind(named: ModelName, model: Module) -> None:
    """Raise a `UsageError` if a network is TorchScript, or if its weights are not real floating-point numbers.

    Args:
        named: The model's name.
        model: The network; its lazy layers may be uninitialised.
    """
    who = f"model {str(named)!r}"
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise UsageError(
            f"{who}: it is TorchScript, whose weights cannot be replaced while it runs; "
            "return the module as it was before torch.jit"
        )
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UsageError(
                f"{who}: its weight {name!r} is {kind}, and obfuscations and attacks here compute with real numbers; "
                "return a network of float32 weights"
            )


def check_trained(named: ModelName, model: Module) -> None:
    """Raise a `UsageError` unless at least one weight is trained."""
    who = f"model {str(named)!r}"
    parameters = list(model.parameters())
    if not parameters:
        raise UsageError(f"{who}: it has no weights, so a client sends nothing; name a network that is trained")
    if not any(parameter.requires_grad for parameter in parameters):
        raise UsageError(
            f"{who}: all its weights are frozen, so a client sends nothing; leave requires_grad on for those that "
            "it trains"
        )


def check_outputs(
    named: ModelName, output: object, pictures: int, classes: int, *, classes_unknown: bool = False
) -> None:
    """Raise a `UsageError` unless the output of a model has a row for each picture and a column for each class.

    Args:
        named: The model's name.
        output: What the model's `forward` returned.
        pictures: Number of pictures that it was given.
        classes: Number of classes; the output may have more columns.
        classes_unknown: The factory takes `**kwargs`, and its arguments do not give the number of classes; the message
            then says how to give it.
    """
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == pictures and output.shape[1] >= classes:
        return
    if isinstance(output, Tensor):
        got, fix = f"shape {tuple(output.shape)}", "give the model one output a class or set classes to match"
        if classes_unknown:
            suggested = ModelName(name=named.name, arguments={**named.arguments, "num_classes": classes})
            fix = f'write model = "{suggested}"'
    else:
        got = type(output).__name__
        fix = "return the logits alone, from a factory of your own that wraps the model"
    raise UsageError(
        f"model {str(named)!r}: its output does not fit the labels: for {pictures} picture{'s' * (pictures > 1)} and "
        f"{classes} classes expected shape ({pictures}, {classes}) or wider, got {got}; {fix}"
    )


def check_size(name: str, image_shape: Shape, *, least: int) -> None:
    """Raise a `UsageError` if pictures are too small for the pooling of a network that comes with unveil.

    Args:
        name: The network's name in the catalogue.
        image_shape: (channels, height, width).
        least: Smallest height and width in pixels.
    """
    _, height, width = image_shape
    if min(height, width) < least:
        raise UsageError(
            f"model {name!r}: expected pictures of at least {least} x {least}, got {height} x {width}; "
            "raise size or take another model"
        )


def looks_like_probabilities(logits: Float[Tensor, "n classes"]) -> bool:
    """Return whether no value is negative and every row has sum 1; with one class, False."""
    values = logits.detach().double()
    return values.shape[1] > 1 and bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-4).all())
