"""Run a user's network and leave no trace: weights, buffers, mode and every global random state stay as they were.

Every run of the network in unveil, the client's and the attacker's, goes through `run`. A network may draw by chance:
dropout, stochastic depth, noise layers, in train mode or always. Such draws depend on a seed that the caller gives, and
not on the global random state, which is put back.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.nn import DataParallel, Module
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from unveil.core.double_backward import twice_differentiable
from unveil.core.errors import UsageError
from unveil.core.usercode import own_randomness, running

Mode = Literal["eval", "train"]

Draws = int | None
"""Seed of what a network draws by chance; None to put the mean in the place of every draw."""

NO_CHECKPOINTS = "activation checkpointing is not supported; switch it off for the audit, which changes no result"


def in_mode(model: Module, mode: Mode) -> Module:
    """A copy of the module tree in the given mode, sharing every parameter and buffer: the model stays as it is.

    Raises:
        UsageError: A network of TorchScript, whose weights cannot be replaced, or one that cannot be copied.
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
    """Stands for a wrapper that spreads a batch over devices: one device is enough, and names stay as they are."""

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
    """Lets weights that were computed from others (weight norm, pruning) be copied with their module."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0]
        return func(*args, **(kwargs or {}))


def run(
    client: Module,
    images: Tensor,
    weights: Mapping[str, Tensor],
    buffers: dict[str, Tensor] | None = None,
    *,
    draws: Draws,
) -> Any:
    """What the network makes of pictures, with other weights in the place of its own.

    Args:
        client: In the client's mode; see `in_mode`.
        images: The pictures, n x c x h x w; the network gets a copy in torch's usual memory layout.
        weights: Parameters by name; those that are left out are the network's own.
        buffers: Buffers by name, such as running statistics, which become what the run leaves in them; None for copies
            of the network's own.
        draws: Seed of what the network draws by chance; None to put the mean in the place of every draw.

    Raises:
        UsageError: The network's code raised an error; its place is named.
    """
    own = fresh_buffers(client) if buffers is None else buffers
    given = {**weights, **own}
    with users_code("model: its forward"), own_randomness(draws or 0), twice_differentiable(), ExitStack() as stack:
        if draws is None:
            stack.enter_context(_MeanOfDraws())
        if "torch._dynamo" in sys.modules:  # compiled parts cannot be watched, nor differentiated twice
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        # A copy, for forwards that change their input in place. Hooks on saved tensors are what checkpoints are made
        # of: these would run parts again when the weights are no longer in place, and their gradient would be lost.
        stack.enter_context(torch.autograd.graph.disable_saved_tensors_hooks(NO_CHECKPOINTS))
        output = functional_call(client, given, (as_taken(client, images),))
    own.update({name: given[name].detach() for name in own})  # some are assigned anew, not written to
    return output


def as_taken(client: Module, images: Tensor) -> Tensor:
    """A copy of pictures in torch's usual memory layout; in double precision where all weights have it."""
    copy = images.clone(memory_format=torch.contiguous_format)
    kinds = {parameter.dtype for parameter in client.parameters()}
    return copy.double() if kinds == {torch.float64} else copy


def fresh_buffers(client: Module) -> dict[str, Tensor]:
    """Copies of a network's buffers, such as running statistics, for layers to write to."""
    return {name: buffer.clone() for name, buffer in client.named_buffers()}


def draws_by_chance(model: Module, images: Tensor, *, mode: Mode) -> bool:
    """Whether a network's output for these pictures depends on chance in this mode.

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
    return float(torch.rand(())), random.random(), float(np.random.random())


def seed_of(draws: Draws, step: int = 0, example: int = 0) -> Draws:
    """The seed of one local step and, under per-example clipping, of one example: no two share their draws."""
    return None if draws is None else (draws + 1_000_003 * step + 998_244_353 * example) % 2**63


class _MeanOfDraws(TorchFunctionMode):
    """Puts the mean of what would be drawn in the place of every draw: dropout lets all pass, noise is zero."""

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
    """Turns an error of the user's own code into a `UsageError` that says what was raised and where."""
    return running(what, "correct it there, or try the model on these pictures in Python")
