"""Eigenvalues come out also where torch gives up in single precision, and an attack goes on where it finds none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seeds import seeded
from unveil.attacks.separation.attack import solved
from unveil.attacks.separation.heads.head import NoHeadError
from unveil.attacks.separation.state import Problem, State
from unveil.clients.training import FedSGD
from unveil.core.protocols import Knowledge
from unveil.core.spectra import LinAlgError, eigh
from unveil.core.update import Update


def degenerate() -> Tensor:
    """Errors of 16 images, of which four are equal and the others zero: fifteen of the eigenvalues are 0."""
    errors = torch.zeros((16, 120))
    errors[torch.tensor([2, 7, 10, 15]), 5] = 0.0034926
    return errors @ errors.T


@pytest.mark.parametrize("single_fails", [False, True])
def test_a_matrix_is_that_of_its_spectrum(single_fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.linalg.eigh

    def fails(matrix: Tensor) -> object:
        if matrix.dtype == torch.float32 and single_fails:
            raise LinAlgError("linalg.eigh: The algorithm failed to converge")
        return plain(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    random = torch.randn((6, 6), generator=seeded(0))
    for matrix in (degenerate(), random + random.T):
        values, vectors = eigh(matrix)
        assert values.dtype == vectors.dtype == torch.float32
        assert bool((values[1:] >= values[:-1]).all())
        torch.testing.assert_close(
            (vectors * values) @ vectors.T, matrix, atol=1e-5 * float(matrix.abs().max()), rtol=0
        )


def test_a_matrix_with_nan_has_no_spectrum() -> None:
    with pytest.raises(LinAlgError):
        eigh(torch.full((3, 3), torch.nan))


def test_equations_without_a_solution_are_a_reason_to_try_something_else() -> None:
    class Stuck:
        steps = 0

        def __call__(self, problem: Problem, state: State) -> State:
            raise LinAlgError("singular")

    knowledge = Knowledge(training=FedSGD(), num_images=1, classes=2, image_shape=(3, 4, 4))
    problem = Problem(
        model=torch.nn.Identity(),
        update=Update({}),
        knowledge=knowledge,
        labels=torch.tensor([0]),
        generator=seeded(0),
        watch=None,
    )
    with pytest.raises(NoHeadError, match="equations without a solution"):
        solved((Stuck(),), problem, State(pictures=torch.zeros(1, 3, 4, 4)), otherwise=NoHeadError)
