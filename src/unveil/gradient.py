"""The gradient of a model's loss on a batch, with large Linear layers left as thin factors.

While the model runs, a tape notes what goes into each large Linear layer and what comes out of it. Differentiating with
respect to that output instead of the weight gives the layer's errors D, and its gradient is D^T A without a matrix
product of the weight's size, forward or backward. Nothing is hooked into the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.nn import Linear, Module
from torch.overrides import TorchFunctionMode

from unveil.core import Batch
from unveil.errors import UsageError
from unveil.thin import WORTH_IT, Candidate, Thin

Mode = Literal["eval", "train"]


class NotThinError(Exception):
    """A weight is used in a way that the factors do not cover; its plain gradient is taken instead."""


def in_mode(model: Module, mode: Mode) -> Module:
    """A copy of the module tree in the given mode, sharing every parameter and buffer: the model stays as it is."""
    shared: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared).train(mode == "train")


def thin_weights(model: Module) -> frozenset[str]:
    """Names of the Linear weights that are large, trained, and owned by one layer only."""
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return frozenset(
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if type(module) is Linear
        and module.weight.numel() >= WORTH_IT
        and module.weight.requires_grad
        and owners.get(id(module.weight)) == 1
    )


class _Tape(TorchFunctionMode):
    """Notes the features and the output of each Linear layer whose weight is one of the given tensors."""

    def __init__(self, names: Mapping[int, str], drift: Mapping[str, Thin]) -> None:
        super().__init__()
        self.names = names
        self.drift = drift
        self.seen: list[tuple[str, Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = next((self.names[id(a)] for a in (*args, *kwargs.values()) if id(a) in self.names), None)
        result = func(*args, **kwargs)
        if name is None or not isinstance(result, Tensor):
            return result
        if func is not F.linear or id(args[1]) not in self.names:
            raise NotThinError(name)
        features = args[0]
        rows, (out, inside) = features.numel() // features.shape[-1], args[1].shape
        if rows * (out + inside) >= out * inside:
            raise NotThinError(name)
        if name in self.drift:
            moved = self.drift[name].times(features.reshape(-1, inside))
            result = result - moved.reshape(result.shape)
        if not result.requires_grad:
            result.requires_grad_()
        self.seen.append((name, features, result))
        return result


def gradient(
    model: Module,
    delta: Candidate,
    batch: Batch,
    *,
    differentiable: bool,
    thin: frozenset[str],
) -> dict[str, Tensor | Thin]:
    """The gradient of the mean cross-entropy at ``weights - delta``.

    Args:
        model: Already in the client's mode (see `in_mode`); its parameters are only read.
        delta: How far each parameter has moved from the model's own value; empty at the start.
        batch: Images and labels (class indices, or rows of probabilities).
        differentiable: Keep the graph, so that the result can be differentiated with respect to the batch.
        thin: Names of the weights whose gradient should stay factored (see `thin_weights`).

    Returns:
        One entry for each trained parameter; zeros where the loss does not depend on it.
    """
    while True:
        try:
            return _gradient(model, delta, batch, differentiable, thin)
        except NotThinError as used_elsewhere:
            thin = thin - {str(used_elsewhere)}


def _gradient(
    model: Module, delta: Candidate, batch: Batch, differentiable: bool, thin: frozenset[str]
) -> dict[str, Tensor | Thin]:
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if name not in thin:
            moved = delta.get(name)
            weight = weight if moved is None else weight - (moved.dense() if isinstance(moved, Thin) else moved)
            weight = weight if weight.requires_grad else weight.requires_grad_(parameter.requires_grad)
        weights[name] = weight
    drift = {name: value for name, value in delta.items() if name in thin and isinstance(value, Thin)}
    # A layer in train mode writes its running statistics, and a dropout draws: both on copies of the state.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()} if model.training else {}
    images = batch.images
    if images.dim() == 4:  # convolutions run up to twice as fast in this layout, and nothing else notices
        images = images.contiguous(memory_format=torch.channels_last)
    tape = _Tape({id(weights[name]): name for name in thin}, drift)
    with _own_randomness() if model.training else nullcontext(), tape:
        logits = functional_call(model, {**weights, **buffers}, (images,))
    check_logits(logits, batch)
    loss = F.cross_entropy(logits, batch.labels)

    names = [n for n, p in model.named_parameters() if p.requires_grad and n not in thin]
    wanted = [weights[n] for n in names] + [output for *_, output in tape.seen]
    grads = torch.autograd.grad(loss, wanted, create_graph=differentiable, allow_unused=True, materialize_grads=True)
    result: dict[str, Tensor | Thin] = dict(zip(names, grads, strict=False))
    for (name, features, _), errors in zip(tape.seen, grads[len(names) :], strict=True):
        inside, out = features.shape[-1], errors.shape[-1]
        if not differentiable:
            features = features.detach()
        term = Thin(((1.0, errors.reshape(-1, out), features.reshape(-1, inside)),))
        earlier = result.get(name)
        result[name] = earlier + term if isinstance(earlier, Thin) else term
    for name in thin - result.keys():
        result[name] = torch.zeros_like(weights[name])
    return result


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Dropout masks from a fixed seed, the same for client and attacker, and the global state as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield


def check_logits(logits: Tensor, batch: Batch) -> None:
    """Raise a `UsageError` if the model's output is not n x classes with room for every label."""
    if logits.dim() != 2 or len(logits) != len(batch):
        raise UsageError(
            f"model: expected an output of {len(batch)} x classes for {len(batch)} images, got "
            f"{' x '.join(map(str, logits.shape))}; let the model return one row of logits an image"
        )
    hard = batch.labels.dim() == 1
    if hard and len(batch) and not 0 <= int(batch.labels.min()) <= int(batch.labels.max()) < logits.shape[1]:
        raise UsageError(
            f"label {int(batch.labels.max())} is out of range for a model with {logits.shape[1]} outputs; "
            "give the model more classes or correct the labels"
        )
