"""Run a user's network and leave no trace: weights, buffers, mode and every global random state stay as they were.

Every run of the network in unveil, the client's and the attacker's, goes through `run`. A network may draw random
numbers: dropout, stochastic depth, noise layers, in train mode or always. These draws depend on a seed that the caller
gives. They do not depend on the global random state, which is restored afterwards.
"""

from __future__ import annotations

import copy
import random
import sys
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.func import functional_call
from torch.nn import DataParallel, Module
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from unveil.core.checkpointing import without_checkpoints
from unveil.core.double_backward import twice_differentiable
from unveil.core.errors import UsageError
from unveil.core.types import Images, Tensors
from unveil.core.usercode import own_randomness, running

Mode = Literal["eval", "train"]

Draws = int | None
"""Seed of a network's random draws; None to replace every draw by its mean."""

Buffers = dict[str, Shaped[Tensor, " ..."]]
"""Buffers of a network by name, such as running statistics (floats) and counters (integers)."""


def in_mode(model: Module, mode: Mode) -> Module:
    """Return a copy of the module tree in the given mode; it shares every parameter and buffer with the model.

    Args:
        model: The user's network, which does not change.
        mode: The mode of the copy.

    Raises:
        UsageError: The network is TorchScript, whose weights cannot be replaced, or it cannot be copied.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UsageError(
            "model: it is compiled by TorchScript, whose weights cannot be replaced; "
            "return the plain module, as it was before torch.jit.script or torch.jit.trace"
        )
    shared: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    with users_code("model: copying it"), _ComputedAreShared():
        client = copy.deepcopy(model, shared)
    return _unwrapped(client).train(mode == "train")


class _Unwrapped(Module):
    """Replaces a wrapper that spreads a batch over devices: it runs on one device, and parameters keep their names."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)


def _unwrapped(module: Module) -> Module:
    for name, child in module.named_children():
        if (plain := _unwrapped(child)) is not child:
            setattr(module, name, plain)
    inside = module.module if isinstance(module, DataParallel | DistributedDataParallel) else None
    return _Unwrapped(inside) if isinstance(inside, Module) else module


class _ComputedAreShared(TorchFunctionMode):
    """Shares weights that were computed from others (weight norm, pruning), which torch refuses to copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0]
        return func(*args, **(kwargs or {}))


def run(
    client: Module,
    images: Float[Tensor, "n ..."],
    weights: Tensors,
    buffers: Buffers | None = None,
    *,
    draws: Draws,
    layout: torch.memory_format = torch.contiguous_format,
) -> Any:
    """Run a network on pictures, with the given weights instead of its own.

    Args:
        client: The network in the client's mode; see `in_mode`.
        images: The pictures, n x c x h x w, or whatever else the network takes, one row for each picture; it gets a
            copy in torch's usual memory layout, or in `layout`.
        weights: Parameters by name; the network's own are used for names that are left out.
        buffers: Buffers by name; the run replaces them by their new values. None for copies of the network's own.
        draws: Seed of the network's random draws; None to replace every draw by its mean.
        layout: The memory layout of the pictures that the network gets. Draws of a seed depend on it.

    Returns:
        What the network's `forward` returns; `gradient.check_logits` checks it.

    Raises:
        UsageError: The network's code raised an error; the message says where.
    """
    own = fresh_buffers(client) if buffers is None else buffers
    given = {**weights, **own}
    with users_code("model: its forward"), own_randomness(draws or 0), twice_differentiable(), ExitStack() as stack:
        if draws is None:
            stack.enter_context(_MeanOfDraws())
        if "torch._dynamo" in sys.modules:  # compiled parts cannot be watched, nor differentiated twice
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(without_checkpoints())
        if layout != torch.contiguous_format:
            stack.enter_context(_ViewsAsReshapes())
        # `as_taken` copies the pictures, because some forwards change their input in place.
        output = functional_call(client, given, (as_taken(client, images, layout),))
    own.update({name: given[name].detach() for name in own})  # some layers assign a new tensor to a buffer
    return output


class _ViewsAsReshapes(TorchFunctionMode):
    """Lets `view` copy where the pictures' memory layout does not allow a view."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_shape = func is Tensor.view and not any(isinstance(given, torch.dtype) for given in args)
        return (Tensor.reshape if is_shape and not kwargs else func)(*args, **(kwargs or {}))


def as_taken(
    client: Module, images: Float[Tensor, "*shape"], layout: torch.memory_format = torch.contiguous_format
) -> Float[Tensor, "*shape"]:
    """Return a copy of the pictures in a memory layout, in float64 if all weights of the network are."""
    copy = images.clone(memory_format=layout)
    kinds = {parameter.dtype for parameter in client.parameters()}
    return copy.double() if kinds == {torch.float64} else copy


def fresh_buffers(client: Module) -> Buffers:
    """Return copies of a network's buffers, to which its layers may write."""
    return {name: buffer.clone() for name, buffer in client.named_buffers()}


def draws_by_chance(model: Module, images: Images, *, mode: Mode) -> bool:
    """Return whether a network draws random numbers for these pictures in this mode.

    Raises:
        UsageError: The network's code raised an error.
    """
    client = in_mode(model, mode)
    with own_randomness(0):
        untouched = _one_draw_each()
    with torch.no_grad(), users_code("model: its forward"), own_randomness(0):
        functional_call(client, fresh_buffers(client), (as_taken(client, images),))
        return _one_draw_each() != untouched


def _one_draw_each() -> tuple[float, float, float]:
    """Draw one number from each global generator: torch's, Python's and NumPy's."""
    return float(torch.rand(())), random.random(), float(np.random.random())


def seed_of(draws: Draws, step: int = 0, example: int = 0) -> Draws:
    """Return the seed for one local step and, with per-example clipping, one example; each pair has another seed."""
    return None if draws is None else (draws + 1_000_003 * step + 998_244_353 * example) % 2**63


class _MeanOfDraws(TorchFunctionMode):
    """Replaces every random draw by its mean: dropout keeps all values, and noise is zero."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUT:
            return args[0] if args else kwargs["input"]
        if func is torch.bernoulli:
            return args[0].clone()
        if func is Tensor.bernoulli_:
            return args[0].copy_(torch.as_tensor(kwargs.get("p", args[1] if len(args) > 1 else 0.5)))
        if func is Tensor.normal_:
            return args[0].fill_(kwargs.get("mean", args[1] if len(args) > 1 else 0.0))
        if func in (torch.randn, torch.randn_like):
            return func(*args, **kwargs).zero_()
        if func is F.multi_head_attention_forward:
            kwargs["training"] = False
        if func is F.scaled_dot_product_attention:
            args, kwargs = args[:4], {**kwargs, "dropout_p": 0.0}
        return func(*args, **kwargs)


_DROPOUT = frozenset(
    {
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
        torch.dropout,
        torch.dropout_,
        torch.alpha_dropout,
        torch.feature_dropout,
    }
)


def users_code(what: str) -> AbstractContextManager[None]:
    """Return a context that turns an error of the user's code into a `UsageError` that says what was raised, where."""
    return running(what, "correct it there, or try the model on these pictures in Python")
