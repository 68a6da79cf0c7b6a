"""The parameters whose row c acts on the score of class c alone: the last layer, found by differentiating the scores.

No layer is named and no order of declaration matters. A Linear layer, a convolution behind which a map is averaged or
flattened, a scale and a shift behind either, and both factors of a normalised weight all have such rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core import Batch, Images, Tensors
from unveil.gradient import check_logits
from unveil.network import Draws, Mode, in_mode, run, users_code

ALIKE = 1e-3  # share of its length by which a row's slope may change with the other classes' slopes: rounding
ENTRIES = 1 << 25  # entries of slopes that are kept where every class has its own
LEAST = 12  # pictures whose slopes are kept however many entries they have


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
        rows = [tensors[name].reshape(shape[0], -1) for name, shape in self.shapes.items()]
        return torch.cat(rows, 1).to(self.values)

    def split(self, rows: Float[Tensor, "lines entries"]) -> dict[str, Tensor]:
        """The tensors, each as a matrix with a row a class, of rows that stand side by side."""
        widths = [shape.numel() // shape[0] for shape in self.shapes.values()]
        return dict(zip(self.shapes, torch.split(rows, widths, 1), strict=True))


def read_rows(model: Module, images: Images, sent: Tensors, *, mode: Mode, draws: Draws) -> ClassRows:
    """Find the rows and their slopes on public pictures; nothing of the model changes.

    Args:
        model: The public model.
        images: Public pictures, at least two.
        sent: What was received: only tensors in it have rows that are of use.
        mode: The client's mode.
        draws: Seed of what the network draws by chance, None for the mean of every draw.

    Raises:
        UsageError: The network's code raised an error, or its output is not a row of scores a picture.
    """
    client = in_mode(model, mode)
    nobody = torch.zeros(len(images), dtype=torch.long, device=images.device)
    with torch.no_grad():
        outputs = check_logits(run(client, images[:2], {}, draws=draws), Batch(images[:2], nobody[:2])).shape[1]
    weights = {name: p.detach() for name, p in client.named_parameters()}
    tried = [n for n, p in weights.items() if p.dim() and len(p) == outputs and p.is_floating_point()]
    weights |= {name: weights[name].clone().requires_grad_() for name in tried}
    with torch.enable_grad():
        scores = check_logits(run(client, images, weights, draws=draws), Batch(images, nobody))
    signs = [_signs(outputs, seed).to(scores) for seed in (0, 1)]
    own: list[str] = []
    if scores.requires_grad and outputs > 1:
        first, second = (_rows(scores.sum(0) @ s, weights, tried, s) for s in signs)
        own = [name for name in tried if _alike(first[name], second[name])]
    arrived = [name for name in own if name in sent]
    used = [name for name in arrived if bool(sent[name].any())] or arrived
    slopes = _slopes(scores, weights, used, signs[0])
    exact = torch.promote_types(scores.dtype, torch.float32)
    values = [weights[name].detach().reshape(outputs, -1) for name in used]
    return ClassRows(
        shapes={name: weights[name].shape for name in used},
        missing=tuple(name for name in own if name not in sent),
        values=torch.cat(values, 1).to(exact) if used else scores.new_zeros((outputs, 0)),
        slopes=slopes.to(exact),
        scores=scores.detach()[: len(slopes)].to(exact),
    )


def _slopes(
    scores: Tensor, weights: Mapping[str, Tensor], used: list[str], signs: Tensor
) -> Float[Tensor, "pictures lines entries"]:
    """The slopes of each picture's scores, one line for all classes where they are alike."""
    lines: list[Tensor] = []
    pictures, one = len(scores), False
    while used and len(lines) < pictures:
        rows = _rows(scores[len(lines)] @ signs, weights, used, signs)
        line = torch.cat([rows[name] for name in used], 1)
        if not lines:
            one = _alike(line, line[:1].expand_as(line))
            pictures = pictures if one else min(pictures, max(LEAST, ENTRIES // line.numel()))
        lines.append(line.mean(0, keepdim=True) if one else line)
    return torch.stack(lines) if lines else scores.detach().new_zeros((len(scores), 1, 0))


def _signs(outputs: int, seed: int) -> Tensor:
    """Weights of the scores, none zero, of sum zero: a softmax behind the scores changes nothing then."""
    signs = torch.ones(outputs)
    signs[1::2] = -1
    if outputs % 2:
        signs[-1] = 1
        signs[-2] = -2 if outputs > 1 else 1
    return signs[torch.randperm(outputs, generator=Generator().manual_seed(seed))]


def _rows(total: Tensor, weights: Mapping[str, Tensor], names: Sequence[str], signs: Tensor) -> dict[str, Tensor]:
    """Each tensor's slope, a row a class, each divided by what its class's score counted."""
    wanted = [weights[name] for name in names]
    with users_code("model: its backward"):
        slopes = torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
    return {name: slope.reshape(len(signs), -1) / signs[:, None] for name, slope in zip(names, slopes, strict=True)}


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether two slopes are the same, and any at all."""
    return float(first.norm()) > 0 and float((first - second).norm()) <= ALIKE * float(first.norm())
