"""Noise: what cannot be part of any gradient, because of the softmax or because of its rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.marchenko_pastur import Tail, noise_tail, part_of
from unveil.inspection.fingerprint.noise_kind import is_laplace, quiet
from unveil.inspection.fingerprint.received import Received

LEAST = 2e-3  # of the head's root mean square: what is less is the rounding of weights, or nothing
DENSE = 0.97  # share of the entries that are not zero: noise leaves no zeros
HEAVY = (
    0.45  # excess kurtosis above which noise is Laplace: it has 3, less the signal that is mixed in; a Gaussian has 0
)
UNCLEAN = 1.0  # the same where no matrix of low rank shows the noise alone, but rows that are nearly noise
LARGE = 700_000  # entries of the largest matrix whose singular values are looked at
MOST_ROWS = 200  # rows that are nearly noise alone and are looked at
FEW, TOO_FEW = 200, 40  # numbers of noise alone, as many as would give the excess as exactly
ENTRIES = 500  # of a tensor whose entries tell the kind of noise
MATRICES = 4  # matrices whose singular values are looked at


@dataclass(frozen=True, kw_only=True)
class Level:
    """The noise of one tensor.

    Args:
        sigma: Its standard deviation.
        size: That of the tensor without it; 0 where nothing is left.
        entries: How many numbers it was estimated from.
    """

    sigma: float
    size: float
    entries: int


def head_level(received: Received) -> Level | None:
    """The noise of the last Linear layer: behind a softmax its gradient sums to zero over the classes."""
    name = received.head
    if name is None:
        return None
    matrix = received.values[name]
    sums = matrix.sum(0)[received.live[name].any(0)]
    if not len(sums):
        return None
    sigma = float(sums.square().mean().sqrt()) / math.sqrt(matrix.shape[0])
    return _level(matrix, sigma, len(sums))


def noisy(received: Received) -> Finding | None:
    """Find additive noise, or None; only where nothing was sparsified or quantised."""
    dense = received.underflows or sum(received.counts.values()) >= DENSE * sum(received.sizes.values())
    head = head_level(received)
    if head is None or not dense:
        return None
    name = received.head
    assert name is not None
    rms = float(received.values[name].square().mean().sqrt())
    floor = max(LEAST * rms, 2 * received.relative * rms, 2 * float(received.absolute[name].square().mean().sqrt()))
    if head.sigma <= floor:
        return None
    levels, tails = {name: head}, []
    for other in _looked_at(received):
        tail = noise_tail(part_of(received.values[other].flatten(1), LARGE))
        if tail is not None and tail.sigma == 0:
            return None  # exactly of low rank: the head's sums have another cause
        if tail is not None:
            tails.append(tail)
            if other != name:
                levels[other] = _level(received.values[other], tail.sigma, tail.entries)
    kind, excess, seen = _kind(received, levels, tails)
    setting, spread = _setting(received, levels)
    parts = _parts(received, setting)
    heavy = is_laplace(quiet(parts))
    heavy = is_laplace([(matrix.flatten(), sigma) for matrix, sigma in parts]) if heavy is None else heavy
    if heavy is not None:
        kind = "laplace" if heavy else "gaussian"
    return Finding(
        spec=f"{kind}:{setting}",
        confidence=0.97 if heavy is not None else _sureness(excess, seen),
        evidence=f"the rows of {name} do not sum to zero over the classes: noise of standard deviation "
        f"{head.sigma:.3g} in entries of {rms:.3g}; {spread}; "
        + (
            f"the noise's excess kurtosis is {excess:.2f} (0 for Gaussian, 3 for Laplace)"
            if heavy is None
            else f"the characteristic function of the entries is {'' if heavy else 'not '}above that of Gaussian noise"
        ),
        equals=("dpsgd, or clip in front: a clipping norm cannot be told under noise",)
        if setting.startswith("sigma")
        else (f"{kind}:snr_db={-20 * math.log10(float(setting.partition('=')[2])):.3g}: the same but for the mean",),
    )


def _looked_at(received: Received) -> list[str]:
    """Matrices whose singular values are looked at: long ones, the largest of moderate size first."""
    shapes = {n: received.values[n].flatten(1).shape for n in received.matrices}
    return [n for n, shape in shapes.items() if min(shape) >= 24][:MATRICES]


def _level(values: Float[Tensor, " ..."], sigma: float, entries: int) -> Level:
    own = float(values.var(correction=0)) - sigma**2
    return Level(sigma=sigma, size=math.sqrt(max(own, 0.0)), entries=entries)


def _kind(received: Received, levels: dict[str, Level], tails: list[Tail]) -> tuple[str, float, int]:
    """Gaussian or Laplace, by the kurtosis of what is noise alone."""
    total, weight, seen = 0.0, 0.0, 0
    for tail in tails:
        if tail.entries:
            worth = tail.entries * tail.dilution**2
            total, weight, seen = total + worth * tail.excess, weight + worth, seen + tail.entries
    for name, values in received.values.items():
        matrix = values.flatten(1) if values.dim() >= 2 else values[None]
        if name not in levels or matrix.shape[1] < 16 or any(tail.entries > 5000 for tail in tails):
            continue
        spread = matrix.std(1, correction=0)
        rows = matrix[spread < 1.06 * levels[name].sigma][:MOST_ROWS]
        if len(rows):
            scaled = (rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True)
            total, weight = total + rows.numel() / 4 * (float(scaled.pow(4).mean()) - 3), weight + rows.numel() / 4
            seen += rows.numel()
    head = received.head
    if weight < FEW and head is not None:  # of the excess of single entries a sum over c classes has a part of 1 / c
        sums, classes = received.values[head].sum(0), received.values[head].shape[0]
        worth = len(sums) / classes**2
        total, weight, seen = total + worth * classes * _excess(sums), weight + worth, seen + len(sums)
    if weight < TOO_FEW:  # a gradient has heavier tails than a Gaussian: without any there is hardly a gradient
        whole = min((_excess(v.flatten()) for v in received.values.values() if v.numel() >= 1000), default=HEAVY)
        if whole < HEAVY:
            total, weight, seen = 0.0, 1.0, 1000
    excess = total / max(weight, 1e-9)
    heavy = HEAVY if any(tail.entries for tail in tails) else UNCLEAN
    return ("laplace" if excess > heavy else "gaussian"), excess, round(weight)


def _parts(received: Received, setting: str) -> list[tuple[Float[Tensor, "_ _"], float]]:
    """Each large tensor as a matrix, with the standard deviation of its noise by the setting that was found."""
    key, _, value = setting.partition("=")
    large = [v.flatten(1) for v in received.values.values() if v.dim() >= 2 and v.numel() >= ENTRIES]
    if key == "sigma":
        return [(matrix, float(value)) for matrix in large]
    share = float(value) / math.sqrt(1 + float(value) ** 2)
    return [(matrix, share * float(matrix.std(correction=0))) for matrix in large]


def _sureness(excess: float, worth: int) -> float:
    """How sure the kind is: the distance from the threshold in standard errors, at most 0.99."""
    error = math.sqrt(24 / max(worth, 1))
    return min(0.99, 0.5 + 0.5 * math.erf(abs(excess - HEAVY) / (error * math.sqrt(2))))


def _setting(received: Received, levels: dict[str, Level]) -> tuple[str, str]:
    """Whether all tensors have noise of one size, or each has noise in proportion to its own, and how much."""
    head = received.head
    assert head is not None
    spreads = {n: float(v.std(correction=0)) for n, v in received.values.items() if v.numel() >= 64}
    best = max(levels, key=lambda n: levels[n].entries)
    sigma = levels[best].sigma
    # No tensor can be smaller than noise of one size.
    smaller = [n for n, spread in spreads.items() if spread < sigma * (1 - 4 / math.sqrt(2 * received.sizes[n]))]
    ratios = {n: level.sigma / level.size for n, level in levels.items() if level.size > 0.1 * level.sigma}
    if len(ratios) >= 2:
        in_size = _spread([levels[n].sigma for n in ratios])
        in_ratio = _spread(list(ratios.values()))
        one_size = in_size < in_ratio and not (smaller and in_size > 0.05)
    else:
        one_size = not smaller
    if one_size:
        return f"sigma={sigma:.4g}", f"all {len(levels)} tensors that show it have noise of this size"
    ratio = ratios.get(best) or max(ratios.values(), default=1.0)
    return f"relative={ratio:.3g}", f"each tensor has noise in proportion to its own entries, {ratio:.3g} of them"


def _spread(values: list[float]) -> float:
    logs = torch.tensor(values, dtype=torch.float64).log()
    return float(logs.max() - logs.min())


def _excess(values: Float[Tensor, " entries"]) -> float:
    centred = values - values.mean()
    return float(centred.pow(4).mean() / centred.square().mean().square().clamp_min(1e-300)) - 3
