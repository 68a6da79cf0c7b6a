"""What an attack minimises: how far a candidate's update is from the one that was received."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Module

from unveil.core.errors import UsageError
from unveil.core.factored import Candidate, inner, square_distance, square_norm
from unveil.core.protocols import Knowledge, Misfit
from unveil.core.types import Update

ObjectiveName = Literal["squared", "cosine", "misfit"]


def squared(received: Update, knowledge: Knowledge) -> Misfit:
    """``||x - y||^2 / ||y||^2``: blind to the obfuscation. Relative, so that its size does not depend on the model."""
    norms = {name: y.square().sum() for name, y in received.tensors.items()}
    total = torch.stack(list(norms.values())).sum()

    def misfit(candidate: Candidate) -> Tensor:
        terms = [square_distance(candidate[n], y, norms[n]) for n, y in received.tensors.items()]
        return torch.stack(terms).sum() / total

    return misfit


def cosine(received: Update, knowledge: Knowledge) -> Misfit:
    """``1 - <x, y> / (||x|| ||y||)`` over the whole update.

    Reference:
        Geiping et al., Inverting Gradients - How Easy Is It to Break Privacy in Federated Learning?, NeurIPS 2020.
    """
    length = torch.stack([y.square().sum() for y in received.tensors.values()]).sum().sqrt()

    def misfit(candidate: Candidate) -> Tensor:
        product = torch.stack([inner(candidate[n], y) for n, y in received.tensors.items()]).sum()
        own = torch.stack([square_norm(candidate[n]) for n in received.tensors]).sum().clamp_min(1e-30).sqrt()
        return 1 - product / (own * length)

    return misfit


def observation_misfit(received: Update, knowledge: Knowledge) -> Misfit:
    """The obfuscation's observation model where the attacker knows the obfuscation, else the squared error.

    In units of what an all-zero candidate scores. Squares of small gradients would otherwise be so small that Adam's
    epsilon swallows their slopes.
    """
    if knowledge.obfuscation is None:
        return squared(received, knowledge)
    misfit = knowledge.obfuscation.misfit(received)
    nothing = float(misfit({name: torch.zeros_like(y) for name, y in received.tensors.items()}))
    return (lambda candidate: misfit(candidate) / nothing) if nothing > 0 else misfit


OBJECTIVES = {"squared": squared, "cosine": cosine, "misfit": observation_misfit}


def checked(model: Module, update: Update) -> torch.device:
    """The model's device, once the update is found to be finite and of this model; a `UsageError` where it is not."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    check_names(update.tensors, parameters)
    update.check()
    return next(iter(parameters.values())).device


def check_names(received: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Raise a `UsageError` unless the update has the model's parameters, name by name and shape by shape."""
    for name, tensor in received.items():
        if name not in model:
            raise UsageError(f"update: tensor {name!r} is not a parameter of the model; use the model it was made with")
        if tensor.shape != model[name].shape:
            raise UsageError(
                f"update: tensor {name!r} has shape {tuple(tensor.shape)}, the model's has {tuple(model[name].shape)}; "
                "use the model the update was made with"
            )
