"""Which of a network's parameters a selection means: the head, the biases, or those of some names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from unveil.core.calls import convolution_call, linear_call
from unveil.core.errors import UsageError, nearest
from unveil.core.network import in_mode, run
from unveil.core.protocols import LocalTraining
from unveil.core.types import Images

ALL, HEAD, LAST, BIAS = "all", "head", "last", "bias"
FIX = "name its parameters instead, as in layers:send=no-classifier"
FEW = 2  # pictures on which the network is run; BatchNorm in train mode needs more than one


def select(words: Sequence[str], model: Module, images: Images, training: LocalTraining) -> frozenset[str]:
    """Return the names of the trained parameters that some words mean.

    Args:
        words: Each is `all`; `head`, the last Linear layers of the network; `last`, the layer that gives the class
            scores; `bias`, the parameters that are called so; or the name of a parameter or of a module, in which `*`
            and `?` stand for any characters.
        model: The network.
        images: Pictures that the network takes; it is run on the first of them if `head` or `last` is meant.
        training: The client's local training, which gives the mode of the network.

    Raises:
        UsageError: The network has no such parameters.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    found: set[str] = set()
    for word in words:
        if word == ALL:
            found.update(names)
        elif word == HEAD:
            found.update(name for layer in _head(model, images[:FEW], training) for name in layer)
        elif word == LAST:
            found.update(_head(model, images[:FEW], training)[0])
        else:
            meant = [name for name in names if _is_meant(name, word)]
            if not meant:
                known = sorted({name.partition(".")[0] for name in names})
                raise UsageError(f"layers: the client trains no parameter {word!r}; {nearest(word, known)}")
            found.update(meant)
    return frozenset(found)


def _is_meant(name: str, word: str) -> bool:
    """Return whether `bias` or a name means a parameter."""
    if word == BIAS:
        return name.rpartition(".")[2].endswith(BIAS)  # in_proj_bias of an attention layer, too
    return fnmatchcase(name, word) or fnmatchcase(name, f"{word}.*")


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a Linear layer or a convolution.

    Args:
        used: Its weight and its bias, if it has one.
        inputs: Shape of its input.
        outputs: Shape of its output.
        is_linear: Whether it is a Linear layer.
    """

    used: tuple[Float[Tensor, " ..."], ...]
    inputs: torch.Size
    outputs: torch.Size
    is_linear: bool


class _Calls(TorchFunctionMode):
    """Remembers the Linear layers and convolutions that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[_Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        linear, convolution = linear_call(func, args, kwargs), convolution_call(func, args, kwargs)
        if linear is not None:
            inputs, weight = linear
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
        elif convolution is not None:
            inputs, weight, bias = convolution.inputs, convolution.weight, convolution.bias
        else:
            return result
        used = (weight,) if bias is None else (weight, bias)
        self.seen.append(_Call(used, inputs.shape, result.shape, linear is not None))
        return result


def _head(model: Module, images: Images, training: LocalTraining) -> list[list[str]]:
    """Return the names of weight and bias of each layer of the head, the last layer first.

    The last layer gives the class scores. Before it belong the Linear layers each of which feeds the next.

    Raises:
        UsageError: The layer that runs last does not give the class scores, or its weight is not trained.
    """
    client, watched = in_mode(model, training.mode), _Calls()
    with torch.no_grad(), watched:
        scores: Float[Tensor, "n classes"] = run(client, images, {}, draws=None)
    names = {id(parameter): name for name, parameter in client.named_parameters() if parameter.requires_grad}
    if not watched.seen or watched.seen[-1].used[0].shape[0] != scores.shape[1]:
        raise UsageError(
            "layers: the last Linear layer or convolution that the network runs does not give the class scores, so "
            f"its head is not known; {FIX}"
        )
    if id(watched.seen[-1].used[0]) not in names:
        raise UsageError(f"layers: the weight of the network's last layer is frozen or computed from others; {FIX}")
    *before, last = watched.seen
    layers = [last]
    for call in reversed(before):
        if not (call.is_linear and layers[-1].is_linear and call.outputs == layers[-1].inputs):
            break
        layers.append(call)
    return [[names[id(used)] for used in call.used if id(used) in names] for call in layers]
