"""What a client's training does, observed by hooks of torch while it runs: pictures, network, loss and optimiser.

Nothing of the client's code is read or changed. A batch counts as trained on when the gradient of its logits arrives,
so evaluations in between are left out, with gradients switched off or not.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import (
    _global_forward_hooks_with_kwargs,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from unveil.captures.slopes import Loss, loss_of


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedBatch:
    """One batch that a network was trained on.

    Args:
        keys: What tells the pictures apart, a digest of the values of each as the network got them.
        image_shape: Channels, height and width of the pictures.
        input_range: Smallest and largest value in them.
        model: The network's class, `package.module:Class`.
        buffers: Names of the network's buffers.
        modes: Whether its layers were in train mode: those of BatchNorm and dropout, or else the whole network.
        dropout: Number of its dropout layers that dropped something.
        logits: Shape of its output.
        loss: What the slope of its output says of the loss; None if it is not the cross-entropy of logits n x classes.
    """

    keys: tuple[bytes, ...]
    image_shape: tuple[int, int, int]
    input_range: tuple[float, float]
    model: str
    buffers: tuple[str, ...]
    modes: frozenset[bool]
    dropout: int
    logits: tuple[int, ...]
    loss: Loss | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an optimiser.

    Args:
        optimiser: Its class, such as `torch.optim.sgd:SGD`.
        groups: The numbers and switches of each group of parameters, such as `lr`, by name.
        carried: Whether the optimiser already had a state before its first step, such as momentum.
        batches: The batches whose gradients arrived since the last step.
    """

    optimiser: str
    groups: tuple[Mapping[str, float | bool | str], ...]
    carried: bool
    batches: tuple[TrainedBatch, ...]


class Observer:
    """Observes training between `start` and `stop`, or inside a `with` block.

    Args:
        keep_pictures: Keep the pictures that the network is trained on, in `pictures`.
        all_threads: Also observe what other threads than the one of `start` do, for a framework that trains in one of
            its own. Then no other client may train in the same process at the same time.
    """

    def __init__(self, *, keep_pictures: bool = False, all_threads: bool = False) -> None:
        self.steps: list[Step] = []
        self.pictures: dict[bytes, Shaped[Tensor, "c h w"]] = {}
        self._keeps_pictures = keep_pictures
        self._all_threads = all_threads
        self._thread = 0
        self._depth = threading.local()
        self._pending: list[TrainedBatch] = []
        self._carried: dict[int, bool] = {}
        self._hooks: list[RemovableHandle] = []

    def start(self) -> None:
        """Begin to observe; what was seen before is forgotten."""
        self.stop()
        self.steps, self.pictures = [], {}
        self._pending, self._carried = [], {}
        self._depth = threading.local()
        self._thread = threading.get_ident()
        self._hooks = [
            register_module_forward_pre_hook(self._enters),
            register_module_forward_hook(self._leaves, with_kwargs=True, always_call=True),
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]

    def stop(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
            # torch forgets this mark of a removed hook, and then warns whoever compiles a network.
            _global_forward_hooks_with_kwargs.pop(hook.id, None)
        self._hooks = []

    def __enter__(self) -> Observer:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def _is_elsewhere(self) -> bool:
        return torch.compiler.is_compiling() or not (self._all_threads or threading.get_ident() == self._thread)

    def _enters(self, module: Module, args: Any) -> None:
        if not self._is_elsewhere():
            self._depth.value = getattr(self._depth, "value", 0) + 1

    def _leaves(self, module: Module, args: Any, *rest: Any) -> None:
        if self._is_elsewhere():
            return
        kwargs, output = rest if len(rest) == 2 else ({}, None)  # after an error in the network torch leaves kwargs out
        depth = getattr(self._depth, "value", 0)
        self._depth.value = max(depth - 1, 0)
        if depth != 1 or not any(True for _ in module.parameters()):
            return
        images = next((x for x in _tensors((args, kwargs)) if x.ndim == 4), None)
        logits = next((x for x in _tensors(output) if x.requires_grad), None)
        if images is not None and images.numel() and logits is not None:
            self._awaits_gradient(module, images, logits)

    def _awaits_gradient(
        self, module: Module, images: Shaped[Tensor, "n c h w"], logits: Float[Tensor, " ..."]
    ) -> None:
        """Note the batch when the gradient of the logits arrives, once."""
        own: Module = getattr(module, "_orig_mod", module)  # what `torch.compile` wraps
        kinds: list[Module] = [m for m in own.modules() if isinstance(m, _NormBase | _DropoutNd)]
        shown = images.detach().cpu().contiguous()
        keys = tuple(map(_digest, shown))
        facts: dict[str, Any] = {
            "keys": keys,
            "image_shape": tuple(shown.shape[1:]),
            "input_range": (float(shown.min()), float(shown.max())),
            "model": f"{type(own).__module__}:{type(own).__qualname__}",
            "buffers": tuple(name for name, _ in own.named_buffers()),
            "modes": frozenset(m.training for m in (kinds or [own])),
            "dropout": sum(m.training and m.p > 0 for m in kinds if isinstance(m, _DropoutNd)),
            "logits": tuple(logits.shape),
        }
        values, pending, pictures = logits.detach(), self._pending, self.pictures
        kept = shown.clone() if self._keeps_pictures else ()

        def arrived(slope: Float[Tensor, " ..."]) -> None:
            if facts:
                pending.append(TrainedBatch(**facts, loss=loss_of(values, slope.detach())))
                facts.clear()
                for key, picture in zip(keys, kept, strict=False):
                    pictures.setdefault(key, picture)

        logits.register_hook(arrived)  # type: ignore[no-untyped-call]

    def _before_step(self, optimiser: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._is_elsewhere() and id(optimiser) not in self._carried:
            states = optimiser.state.values()
            self._carried[id(optimiser)] = any(value is not None for state in states for value in state.values())

    def _after_step(self, optimiser: Optimizer, args: Any, kwargs: Any) -> None:
        if self._is_elsewhere():
            return
        groups = tuple(
            {
                name: float(value) if isinstance(value, Tensor) else value
                for name, value in group.items()
                if isinstance(value, bool | int | float | str) or (isinstance(value, Tensor) and value.numel() == 1)
            }
            for group in optimiser.param_groups
        )
        self.steps.append(
            Step(
                optimiser=f"{type(optimiser).__module__}:{type(optimiser).__qualname__}",
                groups=groups,
                carried=self._carried.get(id(optimiser), False),
                batches=tuple(self._pending),
            )
        )
        self._pending.clear()


def _digest(image: Shaped[Tensor, "c h w"]) -> bytes:
    return hashlib.blake2b(image.contiguous().view(torch.uint8).numpy().data, digest_size=16).digest()


def _tensors(value: Any) -> Iterator[Shaped[Tensor, " ..."]]:
    """Yield the tensors in nested tuples, lists and mappings, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
