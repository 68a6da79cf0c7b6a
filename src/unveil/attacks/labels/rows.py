"""Class rows: the parameters of the last layer, in which row c changes only the score of class c.

The rows are identified by differentiating the scores, so neither the names nor the order of the layers matter. A Linear
layer has such rows. So have a convolution whose map is averaged or flattened afterwards, a scale and a shift behind
either, and both factors of a normalised weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.gradient import check_logits
from unveil.core.network import Draws, Mode, in_mode, run, users_code
from unveil.core.types import Images, Tensors

Places = Sequence[tuple[str, int]]
"""Pairs of a tensor's name and the dimension of the tensor that has one index for each class."""

ALIKE = 1e-3  # relative difference up to which two slopes count as equal; allows for rounding
ENTRIES = 1 << 25  # slope entries that are kept at most if each class has different slopes
LEAST = 12  # pictures whose slopes are kept at least, however many entries they have


@dataclass(frozen=True, eq=False)
class ClassRows:
    """The rows of the last layer, with the slopes and the scores that they have on public pictures.

    Args:
        shapes: Name of each tensor that has class rows and was sent -> its shape.
        sides: Name of each of these tensors -> the dimension that has one index for each class: 0, or the last
            dimension of a transposed weight.
        missing: Names of the tensors that have class rows but were not sent, for example because they are frozen.
        values: All rows, one line for each class score; the rows of several tensors are concatenated.
        slopes: Slope of each class's score with respect to its row, for each picture. There is one line for all classes
            if their slopes are equal. Behind a Linear layer they are: the slopes are the features.
        scores: The class scores of each picture, in logits.
    """

    shapes: Mapping[str, torch.Size]
    sides: Mapping[str, int]
    missing: tuple[str, ...]
    values: Float[Tensor, "out entries"]
    slopes: Float[Tensor, "pictures lines entries"]
    scores: Float[Tensor, "pictures out"]

    def of(self, tensors: Tensors) -> Float[Tensor, "out entries"]:
        """Return the rows of an update's tensors, concatenated."""
        return torch.cat([_matrix(tensors[name], side) for name, side in self.sides.items()], 1).to(self.values)

    def tensors(self, rows: Float[Tensor, "out entries"]) -> Tensors:
        """Return the tensors that have these rows, by name, each in the shape that the model gives it."""
        reshaped = {}
        for name, part in self.split(rows).items():
            side, shape = self.sides[name], self.shapes[name]
            others = [size for number, size in enumerate(shape) if number != side]
            reshaped[name] = part.reshape(-1, *others).movedim(0, side)
        return reshaped

    def split(self, rows: Float[Tensor, "lines entries"]) -> dict[str, Float[Tensor, "lines _"]]:
        """Split concatenated rows into one matrix for each tensor, by name; the widths of the matrices differ."""
        widths = [shape.numel() // shape[self.sides[name]] for name, shape in self.shapes.items()]
        return dict(zip(self.shapes, torch.split(rows, widths, 1), strict=True))


def read_rows(model: Module, images: Images, sent: Tensors, *, mode: Mode, draws: Draws) -> ClassRows:
    """Identify the class rows of a model and compute their slopes on public pictures; the model does not change.

    Args:
        model: The public model.
        images: Public pictures, at least two.
        sent: The tensors of the received update; tensors that were not received are left out.
        mode: The mode in which the client runs the model.
        draws: Seed of the network's random draws; None to take the mean of every draw.

    Returns:
        The rows. They have no entries if no tensor with class rows was received.

    Raises:
        UsageError: The network's code raised an error, or its output is not one row of scores for each picture.
    """
    client = in_mode(model, mode)
    no_labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    with torch.no_grad():
        outputs = check_logits(run(client, images[:2], {}, draws=draws), Batch(images[:2], no_labels[:2])).shape[1]
    weights = {name: p.detach() for name, p in client.named_parameters()}
    tried = [(n, side) for n, p in weights.items() if p.is_floating_point() for side in _sides(p, outputs)]
    weights |= {name: weights[name].clone().requires_grad_() for name, _ in tried}
    with torch.enable_grad():
        scores = check_logits(run(client, images, weights, draws=draws), Batch(images, no_labels))
    all_rows = _class_rows(scores, weights, tried) if scores.requires_grad and outputs > 1 else []
    arrived = [place for place in all_rows if place[0] in sent]
    used = [(name, side) for name, side in arrived if bool(sent[name].any())] or arrived
    slopes = _slopes(scores, weights, used)
    exact = torch.promote_types(scores.dtype, torch.float32)
    values = [_matrix(weights[name].detach(), side) for name, side in used]
    return ClassRows(
        shapes={name: weights[name].shape for name, _ in used},
        sides=dict(used),
        missing=tuple(name for name, _ in all_rows if name not in sent),
        values=torch.cat(values, 1).to(exact) if used else scores.detach().new_zeros((outputs, 0)),
        slopes=slopes.to(exact),
        scores=scores.detach()[: len(slopes)].to(exact),
    )


def _class_rows(scores: Float[Tensor, "pictures out"], weights: Tensors, tried: Places) -> Places:
    """Select the tensors in which each row changes the score of one class only.

    If a row changes only the score of its class, its slope is proportional to the weight that this score has in a sum
    of all scores. So the slopes of two different sums are compared, each divided by these weights.
    """
    outputs = scores.shape[1]
    first, second = (_counted(outputs, seed).to(scores) for seed in (0, 1))
    if outputs == 2:  # two weights with sum zero are unique up to a factor, so the second sum needs another form
        second = second.new_tensor([1.0, 2.0])
    rows = [_rows(scores.sum(0) @ counted, weights, tried, counted) for counted in (first, second)]
    selected = [place for place, one, other in zip(tried, *rows, strict=True) if _alike(one, other)]
    # Behind a softmax the second form fails for two classes; then every tensor with a slope is taken.
    with_slope = [place for place, one in zip(tried, rows[0], strict=True) if bool(one.any())]
    return selected or (with_slope if outputs == 2 else [])


def _slopes(
    scores: Float[Tensor, "pictures out"], weights: Tensors, used: Places
) -> Float[Tensor, "kept lines entries"]:
    """Compute the slopes of each picture's scores, with one line for all classes if their slopes are equal.

    Only the first pictures are kept if the slopes of all of them would have too many entries.
    """
    counted = _counted(scores.shape[1], 0).to(scores)
    lines: list[Tensor] = []
    pictures, one = len(scores), False
    while used and len(lines) < pictures:
        line = torch.cat(_rows(scores[len(lines)] @ counted, weights, used, counted), 1)
        if not lines:
            one = _alike(line, line[:1].expand_as(line))
            pictures = pictures if one else min(pictures, max(LEAST, ENTRIES // line.numel()))
        lines.append(line.mean(0, keepdim=True) if one else line)
    return torch.stack(lines) if lines else scores.detach().new_zeros((len(scores), 1, 0))


def _counted(outputs: int, seed: int) -> Float[Tensor, " out"]:
    """Return weights of the scores in a sum: all different, none zero. Their sum is 0, so a softmax has no effect."""
    half = (outputs + 1) // 2
    counted = torch.linspace(1, 2, outputs)
    counted[half:] *= -counted[:half].sum() / counted[half:].sum()
    return counted[torch.randperm(outputs, generator=Generator().manual_seed(seed))]


def _sides(parameter: Float[Tensor, "*shape"], outputs: int) -> list[int]:
    """Return the dimensions of a parameter that may have one index for each class: the first or the last."""
    return [side for side in sorted({0, parameter.dim() - 1}) if parameter.dim() and parameter.shape[side] == outputs]


def _matrix(tensor: Float[Tensor, "*shape"], side: int) -> Float[Tensor, "out entries"]:
    """Reshape a tensor to a matrix with one row for each index of dimension `side`."""
    return tensor.movedim(side, 0).reshape(tensor.shape[side], -1)


def _rows(
    total: Float[Tensor, ""], weights: Tensors, places: Places, counted: Float[Tensor, " out"]
) -> list[Float[Tensor, "out _"]]:
    """Differentiate a weighted sum of the scores with respect to each tensor, and divide each row by its weight.

    Args:
        total: The weighted sum of the scores.
        weights: The model's parameters by name.
        places: The tensors to differentiate with respect to.
        counted: The weight of each score in the sum.
    """
    wanted = [weights[name] for name, _ in places]
    with users_code("model: its backward"):
        slopes = torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
    matrices = [_matrix(slope, side) for slope, (_, side) in zip(slopes, places, strict=True)]
    return [matrix / counted[:, None].to(matrix) for matrix in matrices]


def _alike(first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"]) -> bool:
    """Return whether two slopes are equal up to rounding and not zero."""
    return float(first.norm()) > 0 and float((first - second).norm()) <= ALIKE * float(first.norm())
