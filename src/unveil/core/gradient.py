"""The gradient of a model's loss on a batch, in which large Linear weights are factored.

While the model runs, a tape records the input and the output of each large Linear layer. The slope of the loss with
respect to the output is the layer's errors D. With its input, the features A, the gradient of the weight is D^T A, and
no matrix of the weight's size is ever computed. No hooks are added to the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Linear, Module
from torch.overrides import TorchFunctionMode

from unveil.core.batch import Batch
from unveil.core.calls import linear_call, tensors_in
from unveil.core.errors import UsageError
from unveil.core.factored import WORTH_IT, Candidate, Factored, dense
from unveil.core.loss import MEAN, Loss
from unveil.core.network import Buffers, Draws, Mode, in_mode, run, users_code

__all__ = ["Gradient", "Mode", "gradient", "in_mode", "thin_weights"]

Gradient = dict[str, Float[Tensor, " ..."] | Factored]
"""The slope of the loss with respect to each trained parameter, by name; large Linear weights are factored."""


class NotThinError(BaseException):  # not an `Exception`, so that no handler in the user's code catches it
    """The model uses a weight in a way that two factors cannot express; `gradient` then computes its plain gradient.

    The message is the name of the weight.
    """


def thin_weights(model: Module) -> frozenset[str]:
    """Return the names of the Linear weights that are worth factoring.

    They have at least `WORTH_IT` entries of float32 or float64, are trained, and belong to one layer only.
    """
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    found = set()
    for prefix, module in model.named_modules():
        name = f"{prefix}.weight" if prefix else "weight"
        # A weight that is computed from others (weight norm, pruning) is no parameter of this name.
        own = type(module) is Linear and owners.get(id(module.weight)) == [name]
        exact = own and module.weight.dtype in (torch.float32, torch.float64)
        if exact and module.weight.numel() >= WORTH_IT and module.weight.requires_grad:
            found.add(name)
    return frozenset(found)


class _Tape(TorchFunctionMode):
    """Records the features and the output of each Linear layer whose weight is one of the given tensors.

    Args:
        names: `id` of each weight -> its name.
        drift: Name of a weight -> how far it has moved from the given tensor, which the tape subtracts.
    """

    def __init__(self, names: Mapping[int, str], drift: Mapping[str, Factored]) -> None:
        super().__init__()
        self.names = names
        self.drift = drift
        self.seen: list[tuple[str, Tensor, Tensor]] = []
        self.versions: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.names:
            return func(*args, **kwargs)
        name = next((self.names[id(t)] for t in tensors_in([*args, kwargs]) if id(t) in self.names), None)
        if name is None:
            return func(*args, **kwargs)
        call = linear_call(func, args, kwargs)
        version = call[0]._version if call is not None else 0
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            if any(True for _ in tensors_in(result)):
                raise NotThinError(name)
            return result
        if call is None or id(call[1]) not in self.names:
            raise NotThinError(name)
        features, weight = call
        rows, (out, inside) = features.numel() // features.shape[-1], weight.shape
        if rows * (out + inside) >= out * inside or result.dtype != weight.dtype:
            raise NotThinError(name)
        if name in self.drift:
            moved = self.drift[name].times(features.reshape(-1, inside))
            result = result - moved.reshape(result.shape)
        if not result.requires_grad and torch.is_grad_enabled():
            result.requires_grad_()
        if result.requires_grad:
            self.seen.append((name, features, result))
            self.versions.append(version)
        return result.clone()  # an activation that works in place must not change what was recorded

    @property
    def overwritten(self) -> str | None:
        """Name of the first weight whose layer's input was changed in place after the layer ran; None if none was."""
        pairs = zip(self.seen, self.versions, strict=True)
        return next((name for (name, features, _), version in pairs if features._version != version), None)


def slopes_of(value: Float[Tensor, ""], variables: Sequence[Float[Tensor, " ..."]]) -> list[Float[Tensor, " ..."]]:
    """Differentiate a value; a variable on which it does not depend has a slope of zeros.

    A network may cut the way from its pictures, by `detach` or whole numbers; then no picture is better than another.

    Args:
        value: The value.
        variables: Tensors that need gradients.
    """
    if not value.requires_grad:
        return [torch.zeros_like(variable) for variable in variables]
    return list(torch.autograd.grad(value, variables, allow_unused=True, materialize_grads=True))


def gradient(
    model: Module,
    delta: Candidate,
    batch: Batch,
    *,
    differentiable: bool,
    thin: frozenset[str],
    buffers: Buffers | None = None,
    draws: Draws = 0,
    loss: Loss = MEAN,
) -> Gradient:
    """Compute the gradient of the cross-entropy at ``weights - delta``.

    Args:
        model: The model in the client's mode (see `in_mode`); its parameters are only read.
        delta: How far each parameter has moved from the model's own value; empty at the start.
        batch: Images and labels (class indices, or rows of probabilities).
        differentiable: Keep the graph, so that the result can be differentiated with respect to the batch.
        thin: Names of the weights whose gradient should stay factored (see `thin_weights`).
        buffers: Running statistics and other buffers; the run replaces them by their new values. None for fresh copies.
        draws: Seed of the network's random draws; None to replace every draw by its mean.
        loss: Mean or sum over the pictures, and label smoothing.

    Returns:
        The slope of each trained parameter, in the model's order; zeros if the loss does not depend on it.

    Raises:
        UsageError: The model raised an error, its output is not one row of logits for each picture, or the output
            depends on no trained parameter.
    """
    while True:
        try:
            # On a copy, because a run that ends in `NotThinError` must not change the caller's buffers.
            tried = {name: buffer.clone() for name, buffer in (buffers or dict(model.named_buffers())).items()}
            result = _gradient(model, delta, batch, differentiable, thin, tried, draws, loss)
        except NotThinError as used_elsewhere:
            thin = thin - {str(used_elsewhere)}
            continue
        if buffers is not None:
            buffers.update(tried)
        return result


def _gradient(
    model: Module,
    delta: Candidate,
    batch: Batch,
    differentiable: bool,
    thin: frozenset[str],
    buffers: Buffers,
    draws: Draws,
    loss: Loss,
) -> Gradient:
    """Compute the gradient as `gradient` does.

    Raises:
        NotThinError: A weight in `thin` must be left plain.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if name not in thin:
            moved = delta.get(name)
            weight = weight if moved is None else (weight - dense(moved)).to(weight.dtype)
            weight = weight if weight.requires_grad else weight.requires_grad_(parameter.requires_grad)
        weights[name] = weight
    drift = {name: value for name, value in delta.items() if name in thin and isinstance(value, Factored)}
    tape = _Tape({id(weights[name]): name for name in thin}, drift)
    with torch.enable_grad(), tape:
        logits = check_logits(run(model, batch.images, weights, buffers, draws=draws), batch)
        value = loss(logits, batch.labels)
    if tape.overwritten is not None:
        raise NotThinError(tape.overwritten)

    names = [n for n, p in model.named_parameters() if p.requires_grad and n not in thin]
    wanted = [weights[n] for n in names] + [output for *_, output in tape.seen]
    if not value.requires_grad:
        raise UsageError(
            "model: its output does not depend on any trained parameter, so there is no gradient to send; "
            "switch requires_grad on, and do not run the forward under torch.no_grad or detach its output"
        )
    with users_code("model: its backward"):
        grads = torch.autograd.grad(
            value, wanted, create_graph=differentiable, allow_unused=True, materialize_grads=True
        )
    result: Gradient = dict(zip(names, grads, strict=False))
    for (name, features, _), errors in zip(tape.seen, grads[len(names) :], strict=True):
        inside, out = features.shape[-1], errors.shape[-1]
        if not differentiable:
            features = features.detach()
        term = Factored(((1.0, errors.reshape(-1, out), features.reshape(-1, inside)),))
        earlier = result.get(name)
        result[name] = earlier + term if isinstance(earlier, Factored) else term
    # In the model's order, because the random draws of an obfuscation must not depend on which weights are factored.
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: result[name] if name in result else torch.zeros_like(weights[name]) for name in trained}


def check_logits(output: object, batch: Batch) -> Float[Tensor, "n classes"]:
    """Return the model's output if it can be logits for the batch.

    Raises:
        UsageError: The output is no float tensor of shape n x classes, or a label is not below `classes`.
    """
    expected = f"model: expected an output of {len(batch)} x classes for {len(batch)} images"
    if not isinstance(output, Tensor):
        raise UsageError(
            f"{expected}, got a {type(output).__name__}; let the model return the logits alone, in this mode too: "
            "wrap it in a module that picks them out"
        )
    if output.dim() != 2 or len(output) != len(batch):
        shape = " x ".join(map(str, output.shape)) or "a single number"
        raise UsageError(f"{expected}, got {shape}; let the model return one row of logits an image")
    if not output.is_floating_point():
        raise UsageError(f"{expected}, got {output.dtype}; let the model return the logits, not the chosen class")
    is_step_on_card = batch.images.requires_grad and batch.labels.device.type != "cpu"  # to look at labels would wait
    if batch.labels.dim() == 1 and len(batch) and not is_step_on_card:
        wrong = batch.labels[(batch.labels < 0) | (batch.labels >= output.shape[1])]
        if len(wrong):
            raise UsageError(
                f"label {int(wrong[0])} is out of range for a model with {output.shape[1]} outputs; "
                "give the model more classes or correct the labels"
            )
    return output
