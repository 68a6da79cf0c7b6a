"""Sparsification: zeros whose number is the same share of every tensor, and which entries were kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.received import Received
from unveil.inspection.fingerprint.thinning import thinned

FEW = 64  # tensors with fewer entries say little of a share
NEARLY_ALL = 0.9  # a larger share that is not zero is no sparsification
EDGE = 0.15  # smallest over median magnitude: above it the largest were kept
TELLING = 20  # values sent of a tensor before their number says something of a share
MANY = 5000  # entries: a number this large is a plain share of the whole by chance once in fifty times
SENT = 8  # values that must have been sent of a tensor for its smallest to mean anything


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of the entries that arrived.

    Args:
        density: The share, in (0, 1).
        scope: `tensor` where it is that of each tensor, `update` where it is that of the whole.
        showing: How many tensors show it.
        is_exact: Whether the numbers agree to the entry.
    """

    density: float
    scope: str
    showing: int
    is_exact: bool


def sparsified(received: Received, *, levels: bool = False, buckets: bool = False) -> Finding | None:
    """Find a sparsifier, or None.

    Args:
        received: The received values.
        levels: A quantiser was found, which may have made zeros of its own.
        buckets: Its steps are those of buckets, so that a tensor has many.
    """
    total, sent = sum(received.sizes.values()), sum(received.counts.values())
    if sent >= total or received.underflows:
        return None
    largest = not _any_kept(received, levels=levels)
    share = _of_tensors(received, levels=levels)
    if share is None and not buckets:
        share = (levels and _of_total(received)) or _of_update(received, largest=largest, levels=levels)
    if not share:
        return None
    name = "topk" if largest else "randomk"
    scope = "" if share.scope == "tensor" else ",scope=update"
    how = "the largest" if largest else "any"
    equals: tuple[str, ...] = ()
    if not largest:
        equals += ("unbiased=true: it multiplies every value by a factor that nobody sees",)
        equals += ("the scope: the numbers sent differ by chance alone",)
    if levels and not share.is_exact:
        equals += ("another density: the quantiser behind it makes zeros of its own",)
    return Finding(
        spec=f"{name}:density={share.density:.4g}{scope}",
        confidence=0.99 if share.is_exact else 0.8,
        evidence=f"{sent:,} of {total:,} entries are not zero; {share.showing} tensors have a share of "
        f"{share.density:.4g} of theirs, and none has more; {how} were kept",
        equals=equals,
    )


def _of_tensors(received: Received, *, levels: bool) -> Share | None:
    """The share that the most tensors have to the entry, ``ceil(density n)`` of n, and none exceeds."""
    sizes, counts = received.sizes, received.counts
    names = [n for n in sizes if sizes[n] >= 8]
    best: tuple[int, int, float] | None = None
    for name in (n for n in names if sizes[n] >= FEW and counts[n]):
        if counts[name] >= NEARLY_ALL * sizes[name]:
            continue
        low, high = (counts[name] - 1) / sizes[name], counts[name] / sizes[name]
        density = plain_number(low, high)
        exact = [n for n in names if counts[n] == math.ceil(density * sizes[n] - 1e-9)]
        more = [n for n in names if counts[n] > math.ceil(high * sizes[n])]
        firm = [n for n in exact if sizes[n] >= FEW and math.ceil(density * sizes[n]) < sizes[n]]
        telling = firm if levels else [n for n in firm if counts[n] >= TELLING]
        if more or len(telling) < (3 if levels else 2):
            continue
        if best is None or (len(firm), sizes[name]) > best[:2]:
            best = (len(firm), sizes[name], density)
    if best is None:
        return None
    firm_share = best[0] / max(1, len([n for n in names if sizes[n] >= FEW]))
    if firm_share < 0.25 if levels else firm_share < 0.34:
        return None
    return Share(density=best[2], scope="tensor", showing=best[0], is_exact=firm_share > 0.5)


def _of_total(received: Received) -> Share | None:
    """A plain share of the whole update to the entry, as signs leave it, which make no zeros of their own."""
    total, sent = sum(received.sizes.values()), sum(received.counts.values())
    density = plain_number((sent - 1) / total, sent / total)
    if sent < MANY or density > NEARLY_ALL or len(f"{density:e}".partition("e")[0].rstrip("0").rstrip(".")) > 3:
        return None
    return Share(density=density, scope="update", showing=len(received.by_size), is_exact=True)


def _of_update(received: Received, *, largest: bool, levels: bool) -> Share | None:
    """One threshold, or one chance to be sent, for all tensors."""
    sizes, counts = received.sizes, received.counts
    total, sent = sum(sizes.values()), sum(counts.values())
    if sent > NEARLY_ALL * total or (levels and not largest):
        return None
    if largest:
        smallest = {n: float(received.nonzero(n).abs().min()) for n in sizes if counts[n] >= SENT}
        least = min((float(received.nonzero(n).abs().min()) for n in received.by_size), default=0.0)
        near = [n for n, size in smallest.items() if size < 1.5 * least]
        kept = torch.cat([received.nonzero(n).abs() for n in received.by_size])
        if least < 5 * max(float(moved.max()) for moved in received.absolute.values()):
            return None  # what is smaller was rounded to zero
        tenth = float(kept.kthvalue(max(1, len(kept) // 10)).values)
        if levels:  # a step may hide the threshold: it is seen where the lowest levels are empty
            near = [n for n in near if smallest[n] > 1.5 * _step(received, n)]
        if len(smallest) < 2 or len(near) < 0.4 * len(smallest) or least < 0.3 * tenth:
            return None
        density = plain_number((sent - 1) / total, sent / total)
        return Share(density=density, scope="update", showing=len(near), is_exact=not levels)
    rate = thinned(received)
    if rate is None:
        return None
    density = plain_number(
        rate.chance - 2.5 * rate.error, rate.chance * (1.15 if rate.is_least else 1) + 2.5 * rate.error
    )
    return Share(density=density, scope="update", showing=rate.tensors, is_exact=not levels)


def _step(received: Received, name: str) -> float:
    """The smallest distance of two magnitudes of a tensor, or its only one."""
    sizes = torch.unique(received.nonzero(name).abs())
    return float(torch.diff(sizes).min()) if len(sizes) > 1 else float(sizes[0])


def _any_kept(received: Received, *, levels: bool) -> bool:
    """Whether small entries were kept as well as large ones.

    Then the smallest sent is far below the median. Where levels hide that, the entries sent are scattered evenly, while
    the largest stand in few rows and columns.
    """
    edges, sent, scattered = [], [], []
    for name in received.by_size:
        sizes = received.nonzero(name).abs()
        if not levels and len(sizes) >= SENT and len(torch.unique(sizes)) > SENT:
            edges.append(float(sizes.min() / sizes.median()))
            sent.append(len(sizes))
        matrix = received.live[name].flatten(1) if received.values[name].dim() >= 2 else None
        if matrix is not None and len(sizes) >= 30:
            for counts in (matrix.sum(0), matrix.sum(1)):
                some = counts[counts > 0].double()
                if len(some) >= 8 and float(some.mean()) >= 2:
                    scattered.append(float(some.var() / some.mean()))
    if edges:
        weights = torch.tensor(sent, dtype=torch.float64).sqrt()
        return float((torch.tensor(edges).double() * weights).sum() / weights.sum()) < EDGE
    return bool(scattered) and max(scattered) < 2.5


def plain_number(low: float, high: float) -> float:
    """The number of fewest digits in (low, high], as somebody would write it."""
    for digits in range(1, 7):
        at = max(high, 1e-12)
        unit = 10.0 ** (math.floor(math.log10(at)) - digits + 1)
        number = math.floor(high / unit * (1 + 1e-12)) * unit
        if number > low * (1 + 1e-9):
            return float(f"{number:.{digits}g}")
    return high
