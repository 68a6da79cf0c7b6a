"""Momentum carried over from an earlier round, and other foreign parts: more than the round's pictures can give.

The gradient of a Linear layer or a convolution has at most the rank of its pictures times their places, summed over the
local steps. What lies beyond came from elsewhere: momentum of an earlier round, a `global/` of an earlier round, weight
decay, more pictures or steps than the manifest says, or noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

from unveil.core.calls import convolution_call, linear_call
from unveil.core.network import in_mode, run
from unveil.inspection.doctor.evidence import Evidence
from unveil.inspection.doctor.examined import FLOAT32, Examined
from unveil.inspection.doctor.faults import Fault, Findings, Untold

MOMENTUM, STALE, DECAY = "carried momentum", "stale global weights", "weight decay"

LARGEST = 1 << 25
"""Most entries of a matrix that is looked at."""
SKETCHED = 16
"""Random directions beyond the rank in which a matrix is looked at (Halko, Martinsson and Tropp, SIAM Review 2011)."""
SMALLEST_HALF = 2.0**-24
"""The smallest step of half precision, between numbers close to zero."""
ROUNDED = 4.0
"""A singular value counts if it is this many times the largest that rounding alone has."""
EXCESS = 2
"""Fewest singular values beyond the rank before a layer counts."""
CANNOT = "no layer of the network is wide enough for its pictures and steps to leave a rank free"


@dataclass(frozen=True, kw_only=True)
class Excess:
    """A layer whose update has more than the rank of its pictures.

    Args:
        name: Its weight.
        rank: Singular values above rounding, in as many directions as were looked at.
        most: The rank that pictures, places and steps allow.
        share: Share of the squared length that is beyond it.
        along: Cosine of what is beyond it with the same part of the weights.
    """

    name: str
    rank: int
    most: int
    share: float
    along: float


def momentum(evidence: Evidence) -> Findings:
    """Look for what the round's pictures cannot have given, and say where it may have come from."""
    found = excess(evidence)
    if isinstance(found, str):
        yield Untold(name=MOMENTUM, reason=found)
        return
    if found is None:
        return
    examined = evidence.examined
    beyond = (
        f"the update of {found.name!r} has a rank of at least {found.rank}, and the pictures and steps of the "
        f"manifest give at most {found.most}; {100 * found.share:.2g} % of its squared length is beyond"
    )
    others = (
        "more pictures or steps than the manifest says",
        "noise that is no stage of the obfuscation",
    )
    if abs(found.along) > ALONG:
        yield Fault(
            name=DECAY,
            severity="error",
            evidence=f"{beyond}, along the weights themselves (cosine {found.along:.2g})",
            fix="say the client's weight decay: --fact weight_decay=...",
        )
        return
    has_momentum = (examined.facts.momentum.value or 0.0) > 0
    is_weights = bool(examined.recording.client)
    stale, carried = "global/ is not what the client started from", "the optimiser kept its momentum of earlier rounds"
    if is_weights and not has_momentum:
        yield Fault(
            name=STALE,
            severity="error",
            evidence=beyond,
            fix="record the weights that the client got in this round as global/",
            instead=(*(() if examined.facts.momentum.value == 0 else (carried,)), *others),
        )
        return
    yield Fault(
        name=MOMENTUM,
        severity="error",
        evidence=beyond,
        fix="record a round that starts with a new optimiser, or take the momentum of earlier rounds off the update",
        instead=((stale, *others) if is_weights else others),
    )


ALONG = 0.5
"""Cosine with the weights above which what is beyond the rank is weight decay."""


def excess(evidence: Evidence) -> Excess | str | None:
    """Find the layer with most beyond its rank; None if there is none, a clause if it cannot be told."""
    examined = evidence.examined
    n, steps = examined.pictures, examined.steps
    if evidence.cannot_rehearse or n is None or steps is None:
        return evidence.cannot_rehearse or "it needs the number of pictures and of steps"
    if not examined.is_exact:
        return "behind this obfuscation every rank is full"
    rows = _rows(evidence)
    size = examined.batch_size or n
    found, could_tell = [], False
    for name, places in rows.items():
        change = examined.sent.get(name)
        if change is None or not bool(change.any()):
            continue
        matrix = change.reshape(len(change), -1).double()
        most = min(size * steps, n * steps) * places
        if matrix.numel() > LARGEST or most + EXCESS > min(matrix.shape):
            continue
        could_tell = True
        if (one := _beyond(examined, name, matrix, most)) is not None:
            found.append(one)
    if not could_tell:
        return CANNOT
    return max(found, key=lambda one: one.share, default=None)


def _beyond(examined: Examined, name: str, matrix: Float[Tensor, "rows columns"], most: int) -> Excess | None:
    """What a layer has beyond its rank, seen in a few more random directions than that; None for nothing."""
    rows, columns = matrix.shape
    width = min(most + SKETCHED, columns)
    directions = torch.randn((columns, width), generator=Generator().manual_seed(0), dtype=matrix.dtype) / columns**0.5
    left, values, _ = torch.linalg.svd(matrix @ directions, full_matrices=False)
    limit = ROUNDED * _rounding(examined, name, matrix) * (math.sqrt(rows) + math.sqrt(width))
    rank = int((values > limit).sum())
    if rank < most + EXCESS:
        return None
    outside = left[:, most:].T
    beyond, before = outside @ matrix, outside @ examined.recording.before[name].reshape(matrix.shape).double()
    return Excess(
        name=name,
        rank=rank,
        most=most,
        share=float(beyond.square().sum() / matrix.square().sum()),
        along=float((beyond * before).sum() / (beyond.norm() * before.norm()).clamp_min(1e-300)),
    )


def _rounding(examined: Examined, name: str, matrix: Float[Tensor, "rows columns"]) -> float:
    """Standard deviation of rounding in an entry: of the weights, of the gradient's sums, of half precision."""
    unit = 2.0**-8 if "bf16" in examined.stages else 2.0**-11 if "fp16" in examined.stages else FLOAT32
    # Sums of a gradient are rounded in proportion to their largest terms, which are larger than most entries.
    sigma = unit * float(matrix.square().mean().sqrt()) + FLOAT32 * float(matrix.abs().max())
    if "fp16" in examined.stages:
        sigma = math.hypot(sigma, SMALLEST_HALF)
    if not examined.recording.gradient:
        sigma = math.hypot(sigma, FLOAT32 * float(examined.recording.before[name].double().square().mean().sqrt()))
    return sigma


class _Watch(TorchFunctionMode):
    """Counts the places a picture has in each call of a Linear layer or a convolution.

    Args:
        names: `id` of a weight -> its name.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.places: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        linear, convolution = linear_call(func, args, kwargs), convolution_call(func, args, kwargs)
        if linear is not None:
            self._add(linear[1], result.shape[:-1].numel())
        elif convolution is not None:
            grouped = convolution.groups > 1
            self._add(convolution.weight, 1 << 40 if grouped else len(result) * result.shape[2:].numel())
        return result

    def _add(self, weight: Float[Tensor, " ..."], rows: int) -> None:
        name = self.names.get(id(weight))
        if name is not None:
            self.places[name] = self.places.get(name, 0) + rows


def _rows(evidence: Evidence) -> dict[str, int]:
    """Places of one picture in each Linear layer and convolution, by the name of its weight."""
    network = evidence.examined.network
    assert network is not None
    client = in_mode(network, "eval")
    watch = _Watch({id(p): name for name, p in client.named_parameters()})
    images = evidence.examined.normalised(evidence.pictures(1, 0))
    with torch.no_grad(), watch:
        run(client, images, dict(client.named_parameters()), draws=None)
    return watch.places
