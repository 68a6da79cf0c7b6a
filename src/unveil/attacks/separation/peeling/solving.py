"""Solve for a map, from the gradients of the convolutions that read it and from the known maps behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unveil.attacks.separation.peeling.equations import SPARE, Kernel, Linear, Passing, Reading, fitting_rows
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.slopes import open_gates
from unveil.attacks.separation.peeling.watch import Map

RIDGE = 1e-13  # of the equations' mean eigenvalue: keeps directions of no information at zero
LEFT = 1e-18  # squared norm of what conjugate gradients leave, of that at the start
ROUGHLY = 1e-8  # the same for a deviation, of which three digits are enough
DOUBT = 10.0  # margins up to which it is doubtful whether an entry is more than zero
MARGIN = 12.0  # standard deviations above zero from which on an entry of a map behind ReLU counts as more than zero
NOISY = 2.5  # the same in an obfuscated update, whose noise is what the deviation says
LEAST = 1e-9  # smallest entry that counts as more than zero, relative to the largest one
PESSIMISM = 30.0  # factor of that noise in a map drawn to zero: what wrong gates leave is not normal
SHRUNK = 2  # times that a map's variance is taken from the map that it gives
TIMES = 4  # most times that a map is solved for, each time without the rows that stood out
ROUNDS = 300  # most steps of conjugate gradients for one map


@dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
    """A map that was solved for.

    Args:
        values: The map, n x channels x height x width.
        deviation: Standard deviation of the error at each place, n x 1 x height x width, in the map's unit.
        off: What all equations leave unexplained, relative to what was received; 0 if that was not computed.
        sure: Standard deviations from which on an entry is not taken for that of a closed gate.
        equations: The equations that were solved last; None if it was found in another way.
    """

    values: Map
    deviation: Map
    off: float = 0.0
    sure: float = MARGIN
    equations: LeastSquares | None = None

    @property
    def unsure(self) -> float:
        """Deviation of an entry relative to the spread of the map, root mean square of both."""
        return relative(self.deviation, self.values)

    @property
    def margin(self) -> Map:
        """How far an entry may be from the value of a closed gate and still be taken for it, by place."""
        return (self.sure * self.deviation).clamp_min(LEAST * float(self.values.abs().max()))

    def is_open(self, closed_at: tuple[float, ...]) -> Map:
        """Return 1 for the entries that are beyond the values of closed gates by more than their error, 0 for others.

        Args:
            closed_at: What the map is behind a closed gate; see `Slope`.
        """
        return open_gates(self.values, closed_at, self.margin)

    @classmethod
    def by_gap(cls, values: Map, *, off: float = 0.0) -> Solved:
        """Return a map behind ReLU whose deviation is told by its entries.

        Entries that are zero were found with an error, whose size the negative ones show. The threshold lies in the
        widest gap, as a ratio, between sorted entries of about this size.

        Args:
            values: The map.
            off: What all equations leave unexplained, relative to what was received; 0 if that was not computed.
        """
        error, largest = float((-values).clamp_min(0).max()), float(values.max())
        threshold = LEAST * largest
        if error > 0 and largest > 0:
            ends = values.new_tensor([error / 10, min(100 * error, largest)])
            near = values[(values > ends[0]) & (values < ends[1])]
            logs = torch.cat([near, ends]).log().sort().values
            at = int((logs[1:] - logs[:-1]).argmax())
            threshold = float(((logs[at] + logs[at + 1]) / 2).exp())
        deviation = torch.full_like(values[:, :1], max(threshold, 0.0) / MARGIN)
        return cls(values=values, deviation=deviation, off=off)

    def rectified(self, closed_at: tuple[float, ...]) -> Map:
        """Return the map with the values of closed gates where gates are closed."""
        if not closed_at:
            return self.values
        bounds = self.values.new_tensor(closed_at)
        nearest = bounds[(self.values[..., None] - bounds).abs().argmin(-1)]
        return torch.where(self.is_open(closed_at) > 0, self.values, nearest)

    def is_doubtful(self, closed_at: tuple[float, ...]) -> Bool[Tensor, "n _ _ _"]:
        """Return whether an entry is so near to the value of a closed gate that its gate may be open or not."""
        near = [(self.values - bound).abs() < DOUBT * self.sure * self.deviation for bound in closed_at]
        return torch.stack(near).any(0) if near else torch.zeros_like(self.values, dtype=torch.bool)


def solve_input(
    readings: list[Reading], passings: list[Passing], *, start: Map | None = None, noisy: bool = False
) -> Solved:
    """Solve for the map that all readings and passings share, by least squares.

    Rows of a gradient whose slopes are wrong (a wrong gate touches one row) stand out by what they leave
    unexplained. They are dropped, and the rest is solved again.

    Args:
        readings: The convolutions that read the map, at least one.
        passings: The known maps behind it.
        start: A map near the solution; None for zeros.
        noisy: Whether the update was obfuscated. The errors of an exact gradient are those of rounding.
    """
    n, shape = len(readings[0].slopes), readings[0].layer.input_shape
    found = readings[0].slopes.new_zeros((n, *shape)) if start is None else start
    kept = [torch.ones_like(reading.gradient[:, 0, 0, 0]) for reading in readings]
    behind = sum(float(passing.is_open.sum()) for passing in passings) / shape[0]
    for again in reversed(range(TIMES)):
        used = [r.restricted(rows * (1 if noisy else r.evenly)) for r, rows in zip(readings, kept, strict=True)]
        equations = LeastSquares(used, passings)
        found = equations.solution(found)
        fits = [
            fitting_rows(reading(found) - reading.gradient, reading.gradient, rows)
            for reading, rows in zip(readings, kept, strict=True)
        ]
        left = sum(float(rows.sum()) * r.gradient[0, 0].numel() for r, rows in zip(readings, fits, strict=True))
        enough = left + behind >= SPARE * n * shape[1] * shape[2]
        if not again or not enough or all(map(torch.equal, fits, kept)):
            break
        kept = fits
    return Solved(
        values=found,
        deviation=equations.deviation(found),
        off=_unexplained(readings, passings, found),
        sure=NOISY if noisy else MARGIN,
        equations=equations,
    )


def relative(deviation: Map, values: Map) -> float:
    """Return a map's deviation relative to its spread, root mean square of both."""
    return float(deviation.square().mean().sqrt() / values.std().clamp_min(1e-300))


def _unexplained(readings: list[Reading], passings: list[Passing], found: Map) -> float:
    """Return what a map leaves unexplained of all equations, relative to what was received."""
    shares = [_mean_square(r(found) - r.gradient) / _mean_square(r.gradient) for r in readings]
    shares += [_mean_square(p(found) - p.values) / _mean_square(p.values) for p in passings]
    return math.sqrt(sum(shares) / len(shares))


class LeastSquares:
    """The sum of squared differences of all equations, each in units of what was received.

    Args:
        readings: The convolutions that read the map, at least one.
        passings: The known maps behind it.
    """

    def __init__(self, readings: list[Reading], passings: list[Passing]) -> None:
        self.weighted: list[tuple[float, Reading, Kernel]] = [
            (1 / _mean_square(r.gradient), r, r.gradient) for r in readings
        ]
        self.passed = [(1 / _mean_square(p.values * p.is_open), p, p.values) for p in passings]
        self.equations: list[tuple[float, Linear, Float[Tensor, " ..."]]] = [*self.weighted, *self.passed]
        parts = [w * part.transposed(values) for w, part, values in self.equations]
        self.target = torch.stack(parts).sum(0)
        self.gram = torch.stack([w * reading.gram() for w, reading, _ in self.weighted]).sum(0)
        signs = torch.where(torch.arange(self.target.numel(), device=self.gram.device) % 3 == 0, -1.0, 1.0)
        signs = signs.reshape(self.target.shape).to(self.gram)
        behind = [w * p.transposed(p(signs)) for w, p, _ in self.passed]
        spread = float((signs * torch.stack(behind).sum(0)).mean()) if behind else 0.0  # their mean eigenvalue, about
        self.ridge = RIDGE * (float(self.gram.diagonal().mean()) + spread)
        self.factor = _cholesky(self.gram, max(spread, self.ridge))

    def operator(self, x: Map) -> Map:
        """Return the left side of the normal equations; that of the gradients is one matrix for all channels."""
        parts = [_as_map(self.gram @ _as_columns(x), x), *(w * p.transposed(p(x)) for w, p, _ in self.passed)]
        return torch.stack(parts).sum(0) + self.ridge * x

    def preconditioned(self, x: Map) -> Map:
        """Solve the equations of the gradients, which are the same for all channels, directly."""
        return _as_map(torch.cholesky_solve(_as_columns(x), self.factor), x)

    def solution(self, start: Map) -> Map:
        """Return the map at which the sum is smallest.

        Args:
            start: A map near the solution.
        """
        return self._solved(self.target, start, left=LEFT)

    def noise(self, found: Map) -> float:
        """Return the mean square that a solution leaves of an equation for each one beyond the unknowns.

        Args:
            found: The solution.
        """
        left = sum(float(w * (part(found) - values).square().sum()) for w, part, values in self.equations)
        n, _, height, width = found.shape
        alive = self.target.square().sum((0, 2, 3))  # channels that are zero give no equations
        unknowns = float((alive > LEAST**2 * alive.max()).sum()) * n * height * width
        return left / max(self.used - unknowns, 1.0)

    @property
    def used(self) -> float:
        """How many equations there are: entries of rows and columns of a gradient that are not all zero, open gates."""
        known = sum(float((values != 0).sum()) for _, _, values in self.passed)
        for _, _, kernel in self.weighted:
            rows, columns = kernel.flatten(1).any(1), kernel.transpose(0, 1).flatten(1).any(1)
            known += float(rows.sum() * columns.sum()) * kernel[0, 0].numel()
        return known

    def most_probable(self, found: Map) -> tuple[Map, Map, Float[Tensor, "places places"] | None]:
        """Return the most probable map if its entries are normal with one variance, and how far it may be off.

        Wrong gates behind are noise that few equations more than unknowns make large. What the equations hardly
        determine is drawn to zero here. The variance is that of the map itself.

        Args:
            found: The solution, from which the noise of the equations is taken.

        Returns:
            The map, the deviation of its errors, and their covariance between the places of all images, which is the
            same for all channels; None where known maps behind tie the channels together.
        """
        if self.passed:
            return found, self.deviation(found), None
        noise = PESSIMISM * self.noise(found)
        received = sum(float(w * values.square().sum()) for w, _, values in self.equations)
        explained = (received - self.used * noise) / max(found.shape[1] * float(self.gram.trace()), 1e-300)
        largest = float(found.square().mean())
        variance = max(min(explained, largest), LEAST * largest)  # both are mostly too large
        for _ in range(SHRUNK):
            factor = _cholesky(self.gram, max(noise / max(variance, 1e-300), self.ridge))
            values = _as_map(torch.cholesky_solve(_as_columns(self.target), factor), found)
            covariance = noise * torch.cholesky_inverse(factor)
            variance = min(variance, float(values.square().mean() + covariance.diagonal().mean()))
        n, _, height, width = found.shape
        return values, covariance.diagonal().sqrt().reshape(n, 1, height, width), covariance

    def deviation(self, found: Map) -> Map:
        """Return the standard deviation of the error at each place, from what a solution leaves unexplained.

        Args:
            found: The solution.
        """
        noise, (n, _, height, width) = self.noise(found), found.shape
        if not self.passed:
            variances = noise * torch.cholesky_inverse(self.factor).diagonal()
            return variances.sqrt().reshape(n, 1, height, width)
        # Known maps tie the channels together: one drawing of noise is solved for, and each of them has an error.
        chance = torch.Generator().manual_seed(0)
        parts = []
        for w, part, values in self.equations:
            drawn = torch.randn(values.shape, generator=chance).to(values) * (values != 0)
            parts.append(w * part.transposed(drawn * (noise / w) ** 0.5))
        error = self._solved(torch.stack(parts).sum(0), torch.zeros_like(found), left=ROUGHLY)
        return error.square().mean(1, keepdim=True).sqrt()

    def _solved(self, target: Map, start: Map, *, left: float) -> Map:
        """Solve the normal equations with this right side by conjugate gradients."""
        found = start
        rest = target - self.operator(found)
        direction = self.preconditioned(rest)
        first = float((target * self.preconditioned(target)).sum())
        product = float((rest * direction).sum())
        for _ in range(ROUNDS):
            if product <= left * first:
                break
            moved = self.operator(direction)
            step = product / float((direction * moved).sum())
            found = found + step * direction
            rest = rest - step * moved
            again = self.preconditioned(rest)
            product, before = float((rest * again).sum()), product
            direction = again + product / before * direction
        return found


def _as_columns(x: Map) -> Float[Tensor, "unknowns channels"]:
    """Return a map as a matrix whose columns are the channels."""
    return x.transpose(0, 1).flatten(1).T


def _as_map(columns: Float[Tensor, "unknowns channels"], like: Map) -> Map:
    """Return a map of another one's shape from its columns."""
    n, channels, *size = like.shape
    return columns.T.reshape(channels, n, *size).transpose(0, 1)


def _cholesky(gram: Float[Tensor, "size size"], ridge: float) -> Float[Tensor, "size size"]:
    """Return the Cholesky factor with the smallest ridge, not below the given one, at which there is one."""
    if not bool(gram.isfinite().all()):
        raise CannotPeelError("The equations of a map are not finite.")
    ridge = max(ridge, 1e-300)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    while True:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * eye)
        if not bool(failed):
            return factor
        ridge *= 10


def _mean_square(values: Float[Tensor, " ..."]) -> float:
    return max(float(values.square().mean()), 1e-300)
