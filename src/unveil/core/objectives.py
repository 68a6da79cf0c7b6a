"""The objectives that attacks minimise: the distance of a candidate's update from the received one."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.core.errors import UsageError
from unveil.core.factored import Candidate, inner, square_distance, square_norm
from unveil.core.protocols import Knowledge, Misfit
from unveil.core.types import Tensors
from unveil.core.update import Update

ObjectiveName = Literal["squared", "cosine", "misfit"]


def squared(received: Update, knowledge: Knowledge) -> Misfit:
    """Return ``||x - y||^2 / ||y||^2`` as a function of the candidate x; it ignores the obfuscation."""
    norms = {name: y.square().sum() for name, y in received.tensors.items()}
    total = torch.stack(list(norms.values())).sum()

    def misfit(candidate: Candidate) -> Float[Tensor, ""]:
        terms = [square_distance(candidate[n], y, norms[n]) for n, y in received.tensors.items()]
        return torch.stack(terms).sum() / total

    return misfit


def cosine(received: Update, knowledge: Knowledge) -> Misfit:
    """Return ``1 - <x, y> / (||x|| ||y||)`` over the whole update, as a function of the candidate x.

    Reference:
        Geiping et al., Inverting Gradients - How Easy Is It to Break Privacy in Federated Learning?, NeurIPS 2020.
    """
    length = torch.stack([y.square().sum() for y in received.tensors.values()]).sum().sqrt()

    def misfit(candidate: Candidate) -> Float[Tensor, ""]:
        product = torch.stack([inner(candidate[n], y) for n, y in received.tensors.items()]).sum()
        own = torch.stack([square_norm(candidate[n]) for n in received.tensors]).sum().clamp_min(1e-30).sqrt()
        return 1 - product / (own * length)

    return misfit


def observation_misfit(received: Update, knowledge: Knowledge) -> Misfit:
    """Return the obfuscation's misfit if the attacker knows the obfuscation, else `squared`.

    The misfit is divided by that of an all-zero candidate. Otherwise the slopes of small gradients would be negligible
    beside Adam's epsilon.
    """
    if knowledge.obfuscation is None:
        return squared(received, knowledge)
    misfit = knowledge.obfuscation.misfit(received)
    nothing = float(misfit({name: torch.zeros_like(y) for name, y in received.tensors.items()}))
    return (lambda candidate: misfit(candidate) / nothing) if nothing > 0 else misfit


OBJECTIVES = {"squared": squared, "cosine": cosine, "misfit": observation_misfit}


def checked(model: Module, update: Update) -> torch.device:
    """Check that an update is finite and belongs to the model, and return the model's device.

    Raises:
        UsageError: The update has a NaN or an infinity, or a tensor that is not the model's.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    check_names(update.tensors, parameters)
    update.check()
    return next(iter(parameters.values())).device


def check_names(received: Tensors, model: Tensors) -> None:
    """Raise a `UsageError` unless every received tensor has the name and the shape of one of the model's parameters."""
    for name, tensor in received.items():
        if name not in model:
            raise UsageError(f"update: tensor {name!r} is not a parameter of the model; use the model it was made with")
        if tensor.shape != model[name].shape:
            raise UsageError(
                f"update: tensor {name!r} has shape {tuple(tensor.shape)}, the model's has {tuple(model[name].shape)}; "
                "use the model the update was made with"
            )
