"""The features in front of a head, from the gradient of its first layer alone, for images of one class too.

The gradient ``G = D^T A`` of n images has rank n. Its singular value decomposition gives ``G = L R`` with orthonormal
rows R, so the features are ``A = M R``, where the mixing matrix M has n x n numbers. The head computes the errors D
from the features, so M solves ``D(M R)^T M = L``: (outputs x n) equations. Levenberg-Marquardt solves them. Images of
one class have nearly the same errors, which differ only as far as their features do. What tells them apart are the
small singular values, so each column of L counts relative to its own length; such images start apart by chance.

Reference:
    Levenberg 1944, Marquardt 1963. The mixing matrix of a head as the unknown: ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from unveil.attacks.separation.certain_images import certain_features
from unveil.attacks.separation.factorisation import first_guess
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.tuning import FactorisationTuning

TURNS = 200  # alternations of features and errors before
STEPS = 200  # most steps from one start
TRIES = 8  # most starts from the common features of a class
SOLVED = 1e-6  # relative length of what is left of the columns of L at which no other start is tried, without rounding
CERTAIN = 1e-2  # the same for images of different classes: of a certain one the client's errors have few digits
ROUNDING = 0.1  # error of a gradient, in units of the spacing of its floating-point numbers
STALLED = 1e-3  # share of the sum of squares that a step takes off, below which the steps end
SPREAD = 0.3  # relative distance at which images of one class start from their common features
NUDGE = 1e-6  # relative length of the differences that give derivatives, in float64
DAMPING = 1e-3, 1e-15, 1e8  # at the start, least, and most, in units of the curvature
LARGEST = 64  # images up to which the matrix is solved for: its equations take 8 n^4 bytes


def exact_features(
    head: Head,
    gradients: list[Float[Tensor, "_ _"]],
    labels: Int[Tensor, " n"],
    *,
    kind: torch.dtype,
    tuning: FactorisationTuning,
    generator: Generator,
) -> Float[Tensor, "n features"]:
    """Return the features that reproduce a gradient together with the errors that the head computes from them.

    Args:
        head: The head, in float64.
        gradients: The received gradient of each of its weights, first to last, float64; of rank n at least.
        labels: The class index of each image.
        kind: The type of number in which the gradient was received.
        tuning: The constants of the factorisation, which gives the features to start from.
        generator: Randomness of the starts.

    Returns:
        The features; for a batch of more than `LARGEST` images those of the factorisation.

    Raises:
        CannotPeelError: Images of one class were not told apart.
    """
    n, alike = len(labels), labels[:, None] == labels
    alternating = replace(tuning, first_ridge=1e-14, first_rounds=TURNS)
    start, _ = first_guess(head, gradients, labels, gain=1.0, tuning=alternating, generator=generator)
    if n > LARGEST:
        return start
    left, strengths, right = torch.linalg.svd(gradients[0], full_matrices=False)
    noise = ROUNDING * torch.finfo(kind).eps * float(strengths[0])
    weights = 1 / strengths[:n].clamp_min(noise)
    solved = max(SOLVED, noise * float(weights.square().mean().sqrt()))
    target = left[:, :n] * strengths[:n] * weights
    system = _System(head=head, labels=labels, basis=right[:n], target=target, weights=weights)
    best, least = system.solved(start @ system.basis.T)
    if least > solved and len(gradients) == 1 and len(torch.unique(labels)) == n:
        found, off = system.solved(certain_features(head, gradients[0], labels) @ system.basis.T)
        if off < least:
            best, least = found, off
        solved = max(solved, CERTAIN)
    if least > solved:
        start, _ = first_guess(head, gradients, labels, gain=1.0, tuning=tuning, generator=generator)
        common = alike.to(start) @ start / alike.sum(1, keepdim=True) @ system.basis.T
        spread = SPREAD * common.norm(dim=1, keepdim=True) / n**0.5
    for _ in range(TRIES):
        if least <= solved:
            break
        drawn = torch.randn(common.shape, generator=generator, device=generator.device).to(common)
        found, off = system.solved(common + spread * drawn)
        if off < least:
            best, least = found, off
    if least > solved and len(torch.unique(labels)) < n:
        raise CannotPeelError("The Linear layers behind the pooled map do not tell the images of one class apart.")
    return best @ system.basis


@dataclass(frozen=True, kw_only=True, eq=False)
class _System:
    """The equations of a mixing matrix.

    Args:
        head: The head, in float64.
        labels: The class index of each image.
        basis: R.
        target: L, each column times its weight.
        weights: What each column counts.
    """

    head: Head
    labels: Int[Tensor, " n"]
    basis: Float[Tensor, "n features"]
    target: Float[Tensor, "out n"]
    weights: Float[Tensor, " n"]

    def solved(self, mixing: Float[Tensor, "n n"]) -> tuple[Float[Tensor, "n n"], float]:
        """Return the mixing matrix that a start leads to, and what it leaves of L, relative to the length of L."""
        damping, least, most = DAMPING
        errors, rest = self._at(mixing)
        cost = float(rest.square().sum())
        for _ in range(STEPS):
            curvature, pull = self._normal_equations(mixing, errors, rest)
            before = cost
            while cost == before and damping < most:
                damped = curvature + damping * torch.diag(curvature.diagonal())
                step, failed = torch.linalg.solve_ex(damped, pull)
                step = step.reshape(mixing.shape)
                there, rest_there = self._at(mixing - step)
                if not bool(failed) and float(rest_there.square().sum()) < cost:
                    mixing, errors, rest = mixing - step, there, rest_there
                    cost, damping = float(rest.square().sum()), max(damping / 5, least)
                else:
                    damping *= 4
            if cost > (1 - STALLED) * before:
                break
        return mixing, (cost / float(self.target.square().sum())) ** 0.5

    def _at(self, mixing: Float[Tensor, "n n"]) -> tuple[Float[Tensor, "n out"], Float[Tensor, "out n"]]:
        """Return the errors that the head computes with a mixing matrix, and what is left of the equations."""
        errors = self._errors(mixing @ self.basis)
        return errors, errors.T @ mixing * self.weights - self.target

    def _errors(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n out"]:
        return self.head.layers(features, self.labels)[0].errors

    def _normal_equations(
        self, mixing: Float[Tensor, "n n"], errors: Float[Tensor, "n out"], rest: Float[Tensor, "out n"]
    ) -> tuple[Float[Tensor, "unknowns unknowns"], Float[Tensor, " unknowns"]]:
        """Return J^T J and J^T rest of the equations' derivative J at a mixing matrix.

        With S[i, k, c] the derivative of error c of image i by M[i, k], the derivative of equation (c, j) by M[i, k] is
        ``(S[i, k, c] M[i, j] + D[i, c] [j = k]) w[j]``.
        """
        n, features, weighted = len(mixing), mixing @ self.basis, mixing * self.weights
        nudge = NUDGE * float(features.norm(dim=1).mean())
        slopes = torch.stack([(self._errors(features + nudge * row) - errors) / nudge for row in self.basis], dim=1)
        flat = slopes.flatten(0, 1)
        crossed = torch.einsum("ic,jlc->ijl", errors, slopes)
        curvature = torch.einsum("ikjl,ij->ikjl", (flat @ flat.T).reshape(n, n, n, n), weighted @ weighted.T)
        across = torch.einsum("ijl,jk,k->ikjl", crossed, weighted, self.weights)
        curvature += across + across.permute(2, 3, 0, 1)
        curvature += torch.einsum("ij,kl->ikjl", errors @ errors.T, torch.diag(self.weights.square()))
        pull = torch.einsum("ikc,cj,ij->ik", slopes, rest, weighted) + errors @ rest * self.weights
        return curvature.reshape(n * n, n * n), pull.flatten()
