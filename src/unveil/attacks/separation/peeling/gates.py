"""Find the gates of every place of a pooled map: binary patterns in the space of a convolution's gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.separation.relu_patterns import settled

ALIKE = 1e-5  # share of the squared slopes in which two patterns may differ and are still one
FITS = 1e-4  # distance of a pattern from the space, relative to its length, up to which it is taken for exact
BEYOND = 3.0  # the same, in units of the distance that noise makes
LOOSEST = 0.4  # most distance at which a pattern is taken for one of the client's, whatever the noise
ROUNDED = 1e-2  # the same, where there is no noise but rounding

TRIES, TIMES = 500, 72  # random patterns at a time, and times that they are tried for one image, at most
PUSHED, TURNS = 25, 80  # turns of projecting and rounding with a push away from known patterns, and without
IDLE = 12  # times without a new pattern of any image after which the search ends


def find_gates(
    gradient: Float[Tensor, "out patch"],
    opened: Float[Tensor, "n out"],
    *,
    places: int,
    generator: Generator,
    noisy: bool = True,
) -> list[Float[Tensor, "found out"]]:
    """Find the open gates of each place of each image.

    The gradient is ``sum over images b and places p of (opened_b * gates_bp)^T patch_bp``, so each row ``opened_b *
    gates_bp`` lies in the space of its left singular vectors, of rank n places. Random patterns are projected on the
    space and rounded in turns until they stay; those that lie in the space are gates. Patterns that are known attract
    most starts, so the first turns keep a component that is orthogonal to all of them.

    Args:
        gradient: The received gradient of the weight, float64; it has more rows than the batch has places.
        opened: Slopes of the loss at an output of the convolution if its gate is open, one row for each image.
        places: Places of the map of one image.
        generator: Randomness of the patterns.
        noisy: Whether the update was obfuscated.

    Returns:
        For each image the different patterns that were found, at most `places`; each with gates of 0 and 1.
    """
    space = Space.of(gradient, len(opened) * places)
    found = [gradient.new_zeros((0, len(row))) for row in opened]
    off = [gradient.new_zeros(0) for _ in opened]
    idle = 0
    for _ in range(TIMES):
        before = sum(map(len, found))
        for image, row in enumerate(opened):
            if len(found[image]) == places:
                continue
            known = torch.cat([patterns * slopes for patterns, slopes in zip(found, opened, strict=True)])
            more, more_off = _search(space, row, known, generator, loosest=LOOSEST if noisy else ROUNDED)
            patterns, distances = torch.cat([found[image], more]), torch.cat([off[image], more_off])
            chosen = _best_of_each(patterns, distances, row)[:places]
            found[image], off[image] = patterns[chosen], distances[chosen]
        after = sum(map(len, found))
        idle = 0 if after > before else idle + 1
        if after == len(opened) * places or idle == IDLE:
            break
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """The space of a gradient's columns.

    Args:
        basis: An orthonormal basis.
        noise: How far noise turns each direction of the basis, in radians; noise is what lies beyond the rank.
    """

    basis: Float[Tensor, "out rank"]
    noise: Float[Tensor, " rank"]

    @classmethod
    def of(cls, gradient: Float[Tensor, "out patch"], rank: int) -> Space:
        """Return the space of the strongest directions.

        Args:
            gradient: The received gradient, with more rows than `rank`.
            rank: Their number.
        """
        left, values, _ = torch.linalg.svd(gradient, full_matrices=False)
        beyond = values[rank:].square().sum() / max(gradient.shape[1] - rank, 1)
        return cls(basis=left[:, :rank], noise=beyond.sqrt() / values[:rank].clamp_min(1e-300))

    def expected(self, rows: Float[Tensor, "out some"]) -> Float[Tensor, " some"]:
        """Return how far rows that lie in the space without noise are from it, relative to their length."""
        inside = self.noise[:, None] * (self.basis.T @ rows)
        found: Tensor = inside.norm(dim=0) / rows.norm(dim=0).clamp_min(1e-300)
        return found


def _best_of_each(
    patterns: Float[Tensor, "some out"], off: Float[Tensor, " some"], opened: Float[Tensor, " out"]
) -> list[int]:
    """Return which patterns to keep, those nearest to the space first: of patterns that differ only in gates of next to
    no slope, or no more than noise explains, the best one.
    """
    share = opened.square() / opened.square().sum()
    alike = off.square().clamp_min(ALIKE)
    chosen: list[int] = []
    for index in off.argsort().tolist():
        differs = (patterns[index] != patterns[chosen]).to(share) @ share
        if not bool((differs < alike[index]).any()):
            chosen.append(index)
    return chosen


def _search(
    space: Space,
    opened: Float[Tensor, " out"],
    known: Float[Tensor, "known out"],
    generator: Generator,
    *,
    loosest: float,
) -> tuple[Float[Tensor, "found out"], Float[Tensor, " found"]]:
    """Return the patterns that random starts lead to and that lie in the space, and their distances from it."""
    shares = 0.1 + 0.8 * torch.rand((1, TRIES), generator=generator, device=generator.device)
    starts = torch.rand((len(opened), TRIES), generator=generator, device=generator.device) < shares
    patterns = starts.to(opened)
    if 0 < len(known) < space.basis.shape[1]:
        patterns = _pushed(space.basis, opened, known, patterns, generator)
    patterns, off = settled(space.basis, opened, torch.unique(patterns, dim=1), rounds=TURNS)
    share = patterns.mean(0)
    fits = (FITS + BEYOND * space.expected(opened[:, None] * patterns)).clamp_max(loosest)
    good = (off < fits) & (share > 0.01) & (share < 0.999)
    unique, where = torch.unique(patterns[:, good].T, dim=0, return_inverse=True)
    distances = off.new_zeros(len(unique)).scatter_reduce(0, where, off[good], "amin", include_self=False)
    return unique, distances


def _pushed(
    space: Float[Tensor, "out rank"],
    opened: Float[Tensor, " out"],
    known: Float[Tensor, "known out"],
    patterns: Float[Tensor, "out tries"],
    generator: Generator,
) -> Float[Tensor, "out tries"]:
    """Project patterns and round them in turns, with at least some component orthogonal to all known rows.

    Its direction is drawn, and its length, relative to the row's, is that of a known row drawn, orthogonal to the
    others.
    """
    rows = space.T @ known.T
    basis, _ = torch.linalg.qr(rows, mode="complete")
    free = basis[:, rows.shape[1] :]
    lengths = 1 / (torch.linalg.pinv(rows).norm(dim=1) * rows.norm(dim=0)).clamp_min(1e-300)
    tries = patterns.shape[1]
    push = torch.randn((free.shape[1], tries), generator=generator, device=generator.device).to(space)
    drawn = torch.randint(len(lengths), (tries,), generator=generator, device=generator.device)
    push = push / push.norm(dim=0) * lengths[drawn]
    size, signed = opened.abs()[:, None], space * opened.sign()[:, None]
    for _ in range(PUSHED):
        row = size * patterns
        inside = signed.T @ row
        now, least = free.T @ inside, push * row.norm(dim=0)
        kept = torch.where(now.norm(dim=0) < least.norm(dim=0), least, now)
        rounded = (signed @ (inside + free @ (kept - now)) > 0.5 * size).to(patterns)
        if torch.equal(rounded, patterns):
            break
        patterns = rounded
    return patterns
