"""PowerSGD: send every matrix as the product of two thin ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.bounds import whole
from unveil.core.factored import Candidate, Factored, dense, square_distance
from unveil.core.protocols import EntryModel, Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family, Tensors
from unveil.core.update import Update
from unveil.obfuscations.likelihoods import size_sent
from unveil.obfuscations.numerics import narrowed, wide

TINY = 1e-5  # a column that keeps less than this share of its length beside the others is rounding: sent as zeros
LEFT, RIGHT = ".left", ".right"


@dataclass(frozen=True, kw_only=True)
class PowerSGD:
    """Send each matrix M as P (P^T M), with P an orthonormal basis of M S for a Gaussian S that everybody knows.

    One round of PowerSGD: S is the published start of its power iteration. What later rounds add, the start from the
    round before and the feedback of errors, needs a client of several rounds. Kernels of convolutions are matrices of
    out x rest. Vectors, and matrices whose factors would hold more numbers than they do, are sent as they are. A stage
    behind it in a pipeline works on the factors, which are what is sent.

    Wire cost: rank (rows + columns) values of 32 bits for each matrix.

    Args:
        rank: Columns of P, 1 to 1024.
        seed: Seed of S, 0 to 2^31.

    Reference:
        Vogels, Karimireddy and Jaggi, PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization,
        NeurIPS 2019.
    """

    name: ClassVar[str] = "powersgd"
    family: ClassVar[Family] = "low-rank"
    rank: int
    seed: int = 0

    def __post_init__(self) -> None:
        whole("PowerSGD", "rank", self.rank, 1, 1024, "2 and 4 are the published ranks")
        whole("PowerSGD", "seed", self.seed, 0, 1 << 31, "0 is the default")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Replace each matrix by its product of thin ones; see `Obfuscation`."""
        return self.decode(self.encode(update), update.tensors)

    def encode(self, update: Update) -> Update:
        """The factors that travel, by name; see `Encoder`."""
        factors = self.encoded(update.tensors)
        kinds = {key: t.dtype for name, t in update.tensors.items() for key in (name, name + LEFT, name + RIGHT)}
        return Update({key: narrowed(dense(value), kinds[key]) for key, value in factors.items()})

    def decode(self, received: Update, like: Tensors) -> Update:
        """The tensors that the receiver works out; see `Encoder`."""
        tensors = {}
        for name, t in like.items():
            if name in received.tensors:
                tensors[name] = received.tensors[name]
            else:
                left, right = (wide(received.tensors[name + end]) for end in (LEFT, RIGHT))
                tensors[name] = narrowed((left.double() @ right.double().T).reshape(t.shape), t.dtype)
        return Update(tensors, encoded=received)

    def encoded(self, candidate: Candidate) -> Candidate:
        """The factors of a candidate, differentiable; see `Encoder`."""
        found: dict[str, Tensor | Factored] = {}
        for name, value in candidate.items():
            if not self._is_thin(value.shape):
                found[name] = value
                continue
            matrix = _matrix(value)
            left = _basis(_times(matrix, self._start(matrix)))
            found |= {name + LEFT: left, name + RIGHT: _transposed_times(matrix, left)}
        return found

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Squared error of what the factors say of M: P^T M and M S, exactly; see `Obfuscation`."""
        scale = size_sent(received) ** 2 * max(sum(y.numel() for y in received.tensors.values()), 1)
        known: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        plain = {n: y.double() for n, y in received.tensors.items() if not self._is_thin(y.shape)}
        norms = {name: y.square().sum() for name, y in plain.items()}
        for name, y in received.tensors.items():
            if name not in plain:
                matrix = y.double().reshape(y.shape[0], -1)
                start = self._start(matrix)
                left, start = _basis(matrix @ start), torch.linalg.qr(start)[0]
                known[name] = (left, matrix.T @ left, start, matrix @ start)

        def misfit(candidate: Candidate) -> Float[Tensor, ""]:
            total = torch.zeros((), dtype=torch.float64)
            for name, y in plain.items():
                total = total + square_distance(_doubled(candidate[name]), y, norms[name])
            for name, (left, right, start, image) in known.items():
                matrix = _matrix(candidate[name])
                total = total + (_transposed_times(matrix, left) - right).square().sum()
                total = total + (_times(matrix, start) - image).square().sum()
            own = next((v for v in candidate.values() if isinstance(v, Tensor)), total)
            return (total / scale).to(torch.float64 if own.dtype == torch.float64 else torch.float32)

        return misfit

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """None of single entries: what is known are sums over rows and columns; see `HasEntryModels`."""
        return {}

    __str__ = spec_of

    def _is_thin(self, shape: torch.Size) -> bool:
        """Whether a tensor of this shape travels as two factors."""
        if len(shape) < 2:
            return False
        rows, columns = shape[0], shape[1:].numel()
        return self.rank * (rows + columns) < rows * columns

    def _start(self, matrix: Float[Tensor, "rows columns"] | Factored) -> Float[Tensor, "columns rank"]:
        """S for a matrix, drawn on the processor so that it is the same on every device."""
        generator = Generator().manual_seed(self.seed)
        start = torch.randn((matrix.shape[1], self.rank), generator=generator, dtype=torch.float64)
        return start.to(matrix.device if isinstance(matrix, Tensor) else matrix.terms[0][1].device)


def _matrix(value: Float[Tensor, " ..."] | Factored) -> Float[Tensor, "rows columns"] | Factored:
    return value.reshape(value.shape[0], -1) if isinstance(value, Tensor) else value


def _doubled(value: Float[Tensor, "*shape"] | Factored) -> Float[Tensor, "*shape"] | Factored:
    if isinstance(value, Tensor):
        return value.double()
    return Factored(tuple((scale, left.double(), right.double()) for scale, left, right in value.terms))


def _times(
    value: Float[Tensor, "rows columns"] | Factored, thin: Float[Tensor, "columns rank"]
) -> Float[Tensor, "rows rank"]:
    """``M thin`` in float64, never building a thin M."""
    if isinstance(value, Tensor):
        return value.double() @ thin
    left, right = value.factors()
    return left.double().T @ (right.double() @ thin)


def _transposed_times(
    value: Float[Tensor, "rows columns"] | Factored, thin: Float[Tensor, "rows rank"]
) -> Float[Tensor, "columns rank"]:
    """``M^T thin`` in float64, never building a thin M."""
    if isinstance(value, Tensor):
        return value.double().T @ thin
    left, right = value.factors()
    return right.double().T @ (left.double() @ thin)


def _basis(columns: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows rank"]:
    """Gram-Schmidt, twice for each column; differentiable, and zeros for columns that depend on those before."""
    found: list[Tensor] = []
    for column in columns.unbind(1):
        rest = column
        for _ in range(2):
            for other in found:
                rest = rest - (other @ rest) * other
        length, whole_length = rest.norm(), column.detach().norm()
        if float(length.detach()) <= TINY * float(whole_length):
            found.append(torch.zeros_like(rest))
        else:
            found.append(rest / length)
    return torch.stack(found, 1)
