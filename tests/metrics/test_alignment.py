import itertools
from dataclasses import replace

import pytest
import torch

from seeds import seeded
from unveil.core.errors import UsageError
from unveil.core.reconstruction import Reconstruction, Stop
from unveil.metrics.alignment import align


def rebuilt(images, labels=None):
    labels = torch.arange(len(images)) if labels is None else labels
    return Reconstruction(images=images, labels=labels, losses=[1.0, 0.5], stop=Stop.STALLED, notes=("seen",))


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffled_batch_is_put_back(seed):
    generator = seeded(seed)
    originals = torch.rand(9, 3, 6, 6, generator=generator)
    order = torch.randperm(9, generator=generator)
    noise = 0.1 * torch.rand(originals.shape, generator=generator)
    aligned = align(originals, rebuilt((originals + noise)[order], order + 100))
    assert torch.equal(aligned.images, originals + noise)
    assert aligned.labels.tolist() == list(range(100, 109))
    assert (aligned.losses, aligned.stop, aligned.notes) == ([1.0, 0.5], Stop.STALLED, ("seen",))


def test_confidence_follows_its_picture():
    originals = torch.rand(4, 3, 5, 5, generator=seeded(0))
    order = torch.tensor([2, 0, 3, 1])
    guess = replace(rebuilt(originals[order]), confidence=order.float())
    aligned = align(originals, guess).confidence
    assert aligned is not None
    assert aligned.tolist() == [0, 1, 2, 3]


def test_one_good_picture_is_never_matched_twice():
    originals = torch.rand(4, 3, 5, 5, generator=seeded(0))
    greys = torch.tensor([0.0, 0.5, 0.02, 0.98]).view(4, 1, 1, 1).expand(4, 3, 5, 5)
    nearest = (originals[:, None] - greys).square().flatten(2).mean(2).argmin(1)
    assert nearest.tolist() == [1, 1, 1, 1]
    assert sorted(align(originals, rebuilt(greys)).labels.tolist()) == [0, 1, 2, 3]


def test_the_total_error_is_the_least_of_all_orders():
    generator = seeded(1)
    originals, guess = torch.rand(2, 5, 1, 3, 3, generator=generator).unbind()
    found = (align(originals, rebuilt(guess)).images - originals).square().sum()
    every = [(guess[list(order)] - originals).square().sum() for order in itertools.permutations(range(5))]
    assert found.item() == pytest.approx(min(every).item())


def test_another_number_of_pictures():
    with pytest.raises(UsageError, match=r"align: expected one reconstruction an original, got 2 for 3"):
        align(torch.zeros(3, 3, 4, 4), rebuilt(torch.zeros(2, 3, 4, 4)))
