"""The parameters whose row c acts on the score of class c alone: the last layer, found by differentiating the scores.

No layer is named and no order of declaration matters. A Linear layer, a convolution behind which a map is averaged or
flattened, a scale and a shift behind either, and both factors of a normalised weight all have such rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core import Images, Tensors
from unveil.gradient import Mode, in_mode

ALIKE = 1e-3  # share of its length by which a row's slope may change with the other classes' slopes: rounding


@dataclass(frozen=True, eq=False)
class ClassRows:
    """The rows of the last layer and what they do on public pictures.

    Args:
        shapes: Name of each tensor that has such rows and was sent -> its shape.
        missing: Names of those that were not sent, because they are frozen or for another reason.
        values: All rows, a line a class; the tensors stand side by side.
        slopes: Slope of each class's score with respect to its row, for each picture; one line stands for all classes
            where they are alike, as behind a Linear layer, whose slopes are the features.
        scores: The class scores of each picture.
    """

    shapes: Mapping[str, torch.Size]
    missing: tuple[str, ...]
    values: Float[Tensor, "outputs entries"]
    slopes: Float[Tensor, "pictures lines entries"]
    scores: Float[Tensor, "pictures outputs"]

    def of(self, tensors: Tensors) -> Float[Tensor, "outputs entries"]:
        """The rows of an update's tensors, side by side."""
        return torch.cat([tensors[name].reshape(shape[0], -1) for name, shape in self.shapes.items()], 1)

    def split(self, rows: Float[Tensor, "lines entries"]) -> dict[str, Tensor]:
        """The tensors, each as a matrix with a row a class, of rows that stand side by side."""
        widths = [shape.numel() // shape[0] for shape in self.shapes.values()]
        return dict(zip(self.shapes, rows.split(widths, 1), strict=True))


def read_rows(model: Module, images: Images, sent: Tensors, *, mode: Mode) -> ClassRows:
    """Find the rows and their slopes on public pictures; nothing of the model changes.

    Args:
        model: The public model.
        images: Public pictures, at least two.
        sent: What was received: only tensors in it have rows that are of use.
        mode: The client's mode.
    """
    client = in_mode(model, mode)
    with own_randomness():
        outputs = _scores(client, images[:2], {}).shape[1]
        weights = {
            name: p.detach().requires_grad_()
            for name, p in client.named_parameters()
            if p.dim() and len(p) == outputs and p.is_floating_point()
        }
        scores = _scores(client, images, weights)
    signs = [_signs(outputs, seed).to(scores) for seed in (0, 1)]
    names = list(weights) if scores.requires_grad else []
    first, second = (_rows(scores.sum(0) @ s, weights, names, s) for s in signs)
    own = [name for name in names if _alike(first[name], second[name])]
    used = [name for name in own if name in sent and bool(sent[name].any())] or [name for name in own if name in sent]
    slopes = []
    for picture in scores if used else ():
        rows = _rows(picture @ signs[0], weights, used, signs[0])
        slopes.append(torch.cat([rows[name] for name in used], 1))
        if len(slopes) == 1:
            one = all(_alike(line, slopes[0][:1]) for line in slopes[0].split(1))
        if one:
            slopes[-1] = slopes[-1].mean(0, keepdim=True)
    empty = scores.new_zeros((len(images), 1, 0))
    return ClassRows(
        shapes={name: weights[name].shape for name in used},
        missing=tuple(name for name in own if name not in sent),
        values=torch.cat([weights[name].detach().reshape(outputs, -1) for name in used] or [empty[0].expand(outputs, 0)], 1),
        slopes=torch.stack(slopes) if slopes else empty,
        scores=scores.detach(),
    )


@contextmanager
def own_randomness() -> Iterator[None]:
    """Whatever the user's model draws comes from a fixed seed, and the global state stays as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield


def _scores(client: Module, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    state = {name: p.detach() for name, p in client.named_parameters()} | weights
    state |= {name: buffer.clone() for name, buffer in client.named_buffers()}
    with torch.set_grad_enabled(bool(weights)):
        scores: Tensor = torch.func.functional_call(client, state, (images,))
    return scores


def _signs(outputs: int, seed: int) -> Tensor:
    """Weights of the scores, none zero, of sum zero: a softmax behind the scores changes nothing then."""
    signs = torch.ones(outputs)
    signs[1::2] = -1
    if outputs % 2:
        signs[-1] = 1
        signs[-2] = -2 if outputs > 1 else 1
    return signs[torch.randperm(outputs, generator=Generator().manual_seed(seed))]


def _rows(total: Tensor, weights: Mapping[str, Tensor], names: list[str], signs: Tensor) -> dict[str, Tensor]:
    """Each tensor's slope, a row a class, each divided by what its class's score counted."""
    slopes = torch.autograd.grad(
        total, [weights[n] for n in names], retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return {name: slope.reshape(len(signs), -1) / signs[:, None] for name, slope in zip(names, slopes, strict=True)}


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether two slopes are the same, and any at all."""
    return 0 < float(first.norm()) and float((first - second).norm()) <= ALIKE * float(first.norm())
