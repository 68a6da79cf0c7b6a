"""The order of places from a depthwise convolution: the slopes at its input say which places are neighbours.

A network of inverted residuals has a pointwise convolution e, gates, a depthwise convolution w, gates and another
pointwise convolution. The slopes at the output of w are known at every place, but not their order. Those at the output
of e are, for each place p, with gates v and the slope s of e's result behind an open gate,

    d_p = v_p * sum over taps k of  s * w_k * slopes at the place that stands at -k from p

They lie in the space of the left singular vectors of e's gradient and are sparse, as many gates are closed. So they are
the sparsest basis of the space, which is found greedily. Least squares with coefficients of at least zero then says
which slopes a vector is the sum of: its own, and those of its neighbours, each at its tap.

Maps whose slopes are zero at all places of an image have no d of that image. Where there are many, as in trained
networks, the space falls into one for each image.

Reference:
    The sparsest basis of a space, greedily: Coleman and Pothen, The Null Space Problem I, SIAM Journal on Algebraic and
    Discrete Methods, 1986. Its vectors from null spaces of rows drawn at random, for ReLU: Dimitrov et al., SPEAR,
    NeurIPS 2024. Which of its vectors are neighbours: ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from scipy.optimize import nnls
from torch import Generator, Tensor

from unveil.attacks.separation.peeling.watch import Convolution
from unveil.core.spectra import eigh

DRAWS, TIMES = 4000, 10  # choices of rows at a time, and times that they are drawn for one image
SILENT = 1e-6  # squared length of a direction in silent rows below which it belongs to the image
LIVE = 1e-4  # length of a row of the space, of the longest one, from which on it counts
ZERO = 1e-3  # size of an entry of a sparse vector, of its largest one, below which it is zero
NEW = 1e-2  # distance of a vector from the span of others, of its length, from which on it is another one
SUM = 1e-2  # distance of a vector from a sum of slopes, of its length, up to which it is that sum
WHOLE = 0.1  # distance of a coefficient from 0 or 1 up to which it counts as that


def by_neighbours(
    depthwise: Convolution,
    gradient: Float[Tensor, "out inside"],
    slopes: Float[Tensor, "n places out"],
    slope: Float[Tensor, " out"],
    *,
    generator: Generator,
) -> Int[Tensor, "n places"] | None:
    """Return the order in which the places of each image stand, row by row; None if it was not found.

    Args:
        depthwise: The depthwise convolution, of stride 1.
        gradient: The received gradient of the pointwise convolution before it; its input has at least as many maps as
            the batch has places.
        slopes: Slopes of the loss at the output of the depthwise convolution, in any order of the places.
        slope: Slope of the depthwise convolution's input with respect to the output of the pointwise one.
        generator: Randomness of the choice of rows.
    """
    n, places, _ = slopes.shape
    space = torch.linalg.svd(gradient, full_matrices=False)[0][:, : n * places]
    taps = slope * depthwise.weight.flatten(1).T.to(slope)
    orders = []
    for image in slopes:
        silent = space[(image == 0).all(0)]
        values, basis = eigh(silent.T @ silent)
        inside = basis[:, : max(places, int((values < SILENT).sum()))]
        order = _order(space @ inside, (taps[:, None] * image).flatten(0, 1), depthwise, places, generator)
        if order is None:
            return None
        orders.append(order)
    return torch.stack(orders)


def _order(
    space: Float[Tensor, "out rank"],
    terms: Float[Tensor, "terms out"],
    depthwise: Convolution,
    places: int,
    generator: Generator,
) -> Int[Tensor, " places"] | None:
    """Return the order of one image's places; None if it was not found.

    Args:
        space: A basis of the space in which the slopes at the output of the pointwise convolution lie.
        terms: For each tap and each place what the slopes there add to those at a neighbour.
        depthwise: The depthwise convolution.
        places: Places of the image.
        generator: Randomness of the choice of rows.
    """
    length = space.norm(dim=1)
    live = length > LIVE * length.max()
    rows = space[live] / length[live, None]
    best = rows.new_zeros((0, rows.shape[1]))
    neighbours: dict[int, dict[tuple[int, int], int]] = {}
    for _ in range(TIMES):
        best = _sparsest(rows, torch.cat([best, _null_vectors(rows, generator)]))
        for vector in (space @ best.T).T:
            found = _neighbours(vector, terms, depthwise, places)
            if found is not None:
                neighbours[found[0]] = found[1]
        order = _placed(neighbours, depthwise.output_shape[1], depthwise.output_shape[2])
        if order is not None:
            return torch.tensor(order, device=space.device)
    return None


def _null_vectors(rows: Float[Tensor, "live rank"], generator: Generator) -> Float[Tensor, "draws rank"]:
    """Return vectors that are orthogonal to as many rows, drawn at random, as leave one direction."""
    live, rank = rows.shape
    drawn = torch.rand((DRAWS, live), generator=generator, device=generator.device).to(rows)
    chosen = rows[drawn.topk(min(rank - 1, live), dim=1).indices]
    basis: Tensor = torch.linalg.qr(chosen.transpose(1, 2), mode="complete")[0]
    return basis[:, :, -1]


def _sparsest(rows: Float[Tensor, "live rank"], vectors: Float[Tensor, "some rank"]) -> Float[Tensor, "few rank"]:
    """Return the vectors of most zeros in the rows, each independent of those before it."""
    entries = (rows @ vectors.T).abs()
    zeros = (entries < ZERO * entries.amax(0)).sum(0)
    chosen = vectors.new_zeros((0, vectors.shape[1]))
    span = vectors.new_zeros((vectors.shape[1], 0))
    rest = vectors[zeros.argsort(descending=True)]
    while len(rest) and len(chosen) < rows.shape[1]:
        entries = (rows @ rest[0]).abs()
        silent = rows[entries < ZERO * entries.max()]
        chosen = torch.cat([chosen, eigh(silent.T @ silent).vectors[:, :1].T])
        span, _ = torch.linalg.qr(chosen.T)
        rest = rest[(rest - rest @ span @ span.T).norm(dim=1) > NEW]
    return chosen


def _neighbours(
    vector: Float[Tensor, " out"], terms: Float[Tensor, "terms out"], depthwise: Convolution, places: int
) -> tuple[int, dict[tuple[int, int], int]] | None:
    """Return the place whose slopes a vector is, and which places stand at which rows and columns from it."""
    rows = vector.abs() > ZERO * vector.abs().max()
    matrix, sums = terms[:, rows].T.cpu().numpy(), vector[rows].cpu().numpy()
    _, _, height, width = depthwise.weight.shape
    left, _, above, _ = depthwise.zeros
    centre = above * width + left
    for sign in (1, -1):
        weights, off = nnls(matrix, sign * sums)
        if off > SUM * float(vector.norm()):
            continue
        shares = torch.from_numpy(weights).reshape(height * width, places)
        own = int(shares[centre].argmax())
        shares = shares / shares[centre, own].clamp_min(1e-300)
        is_neighbour = shares > 0.5
        if bool(((shares - is_neighbour.to(shares)).abs() > WHOLE).any()) or bool((is_neighbour.sum(1) > 1).any()):
            continue
        found = {}
        for tap, place in is_neighbour.nonzero().tolist():
            found[above - tap // width, left - tap % width] = place
        return own, found
    return None


def _placed(neighbours: dict[int, dict[tuple[int, int], int]], height: int, width: int) -> list[int] | None:
    """Return the places row by row, if neighbours say where each of them stands; None if not or if they disagree."""
    if not neighbours:
        return None
    first = next(iter(neighbours))
    at, waiting = {first: (0, 0)}, [first]
    while waiting:
        place = waiting.pop()
        for (rows, columns), other in neighbours.get(place, {}).items():
            where = (at[place][0] + rows, at[place][1] + columns)
            if other not in at:
                at[other] = where
                waiting.append(other)
            elif at[other] != where:
                return None
    top, left = min(row for row, _ in at.values()), min(column for _, column in at.values())
    grid = {(row - top, column - left): place for place, (row, column) in at.items()}
    full = [(row, column) for row in range(height) for column in range(width)]
    return [grid[where] for where in full] if set(grid) == set(full) and len(at) == len(full) else None
