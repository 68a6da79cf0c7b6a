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

from unveil.core.gradient import check_logits
from unveil.core.network import Draws, Mode, in_mode, run, users_code
from unveil.core.types import Batch, Images, Tensors

Places = Sequence[tuple[str, int]]
"""Names of tensors, and the dimension of each that counts the classes."""

ALIKE = 1e-3  # share of its length by which a row's slope may change with the other classes' slopes: rounding
ENTRIES = 1 << 25  # entries of slopes that are kept where every class has its own
LEAST = 12  # pictures whose slopes are kept however many entries they have


@dataclass(frozen=True, eq=False)
class ClassRows:
    """The rows of the last layer and what they do on public pictures.

    Args:
        shapes: Name of each tensor that has such rows and was sent -> its shape.
        sides: Name of each of them -> the dimension that counts the classes: 0, or the last of a transposed weight.
        missing: Names of those that were not sent, because they are frozen or for another reason.
        values: All rows, a line a class; the tensors stand side by side.
        slopes: Slope of each class's score with respect to its row, for each picture; one line stands for all classes
            where they are alike, as behind a Linear layer, whose slopes are the features.
        scores: The class scores of each picture.
    """

    shapes: Mapping[str, torch.Size]
    sides: Mapping[str, int]
    missing: tuple[str, ...]
    values: Float[Tensor, "outputs entries"]
    slopes: Float[Tensor, "pictures lines entries"]
    scores: Float[Tensor, "pictures outputs"]

    def of(self, tensors: Tensors) -> Float[Tensor, "outputs entries"]:
        """The rows of an update's tensors, side by side."""
        return torch.cat([_matrix(tensors[name], side) for name, side in self.sides.items()], 1).to(self.values)

    def tensors(self, rows: Float[Tensor, "outputs entries"]) -> dict[str, Tensor]:
        """The tensors that have these rows."""
        found = {}
        for name, part in self.split(rows).items():
            side, shape = self.sides[name], self.shapes[name]
            others = [size for number, size in enumerate(shape) if number != side]
            found[name] = part.reshape(-1, *others).movedim(0, side)
        return found

    def split(self, rows: Float[Tensor, "lines entries"]) -> dict[str, Tensor]:
        """The tensors, each as a matrix with a row a class, of rows that stand side by side."""
        widths = [shape.numel() // shape[self.sides[name]] for name, shape in self.shapes.items()]
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
    tried = [(n, side) for n, p in weights.items() if p.is_floating_point() for side in _sides(p, outputs)]
    weights |= {name: weights[name].clone().requires_grad_() for name, _ in tried}
    with torch.enable_grad():
        scores = check_logits(run(client, images, weights, draws=draws), Batch(images, nobody))
    own = _own(scores, weights, tried) if scores.requires_grad and outputs > 1 else []
    arrived = [place for place in own if place[0] in sent]
    used = [(name, side) for name, side in arrived if bool(sent[name].any())] or arrived
    slopes = _slopes(scores, weights, used)
    exact = torch.promote_types(scores.dtype, torch.float32)
    values = [_matrix(weights[name].detach(), side) for name, side in used]
    return ClassRows(
        shapes={name: weights[name].shape for name, _ in used},
        sides=dict(used),
        missing=tuple(name for name, _ in own if name not in sent),
        values=torch.cat(values, 1).to(exact) if used else scores.detach().new_zeros((outputs, 0)),
        slopes=slopes.to(exact),
        scores=scores.detach()[: len(slopes)].to(exact),
    )


def _own(scores: Tensor, weights: Mapping[str, Tensor], tried: Places) -> Places:
    """The tensors whose rows act on their own class's score alone."""
    outputs = scores.shape[1]
    first, second = (_counted(outputs, seed).to(scores) for seed in (0, 1))
    if outputs == 2:  # the one way to count two scores with sum zero; what is behind a softmax is not told apart then
        second = second.new_tensor([1.0, 2.0])
    rows = [_rows(scores.sum(0) @ counted, weights, tried, counted) for counted in (first, second)]
    own = [place for place, one, other in zip(tried, *rows, strict=True) if _alike(one, other)]
    some = [place for place, one in zip(tried, rows[0], strict=True) if bool(one.any())]
    return own or (some if outputs == 2 else [])


def _slopes(scores: Tensor, weights: Mapping[str, Tensor], used: Places) -> Float[Tensor, "pictures lines entries"]:
    """The slopes of each picture's scores, one line for all classes where they are alike."""
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


def _counted(outputs: int, seed: int) -> Float[Tensor, " outputs"]:
    """How much each score counts in a sum: none zero, all different, zero in all, so that a softmax changes nothing."""
    half = (outputs + 1) // 2
    counted = torch.linspace(1, 2, outputs)
    counted[half:] *= -counted[:half].sum() / counted[half:].sum()
    return counted[torch.randperm(outputs, generator=Generator().manual_seed(seed))]


def _sides(parameter: Tensor, outputs: int) -> list[int]:
    """Dimensions of a parameter that may count the classes: the first, or the last of a weight used transposed."""
    return [side for side in sorted({0, parameter.dim() - 1}) if parameter.dim() and parameter.shape[side] == outputs]


def _matrix(tensor: Tensor, side: int) -> Tensor:
    """A tensor as a matrix with a row for each place along a dimension."""
    return tensor.movedim(side, 0).reshape(tensor.shape[side], -1)


def _rows(total: Tensor, weights: Mapping[str, Tensor], places: Places, counted: Tensor) -> list[Tensor]:
    """Each tensor's slope, a row a class, each divided by what its class's score counted."""
    wanted = [weights[name] for name, _ in places]
    with users_code("model: its backward"):
        slopes = torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
    matrices = [_matrix(slope, side) for slope, (_, side) in zip(slopes, places, strict=True)]
    return [matrix / counted[:, None].to(matrix) for matrix in matrices]


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether two slopes are the same, and any at all."""
    return float(first.norm()) > 0 and float((first - second).norm()) <= ALIKE * float(first.norm())
