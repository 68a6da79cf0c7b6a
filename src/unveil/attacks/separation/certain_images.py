"""Features of images whose class the network is nearly certain of, behind one Linear layer, from its exact gradient.

The errors of such an image are small: its class has probability 1 - s. Alternations of features and errors leave that
solution, because features that are 1 % shorter multiply s. But the errors of each image lie in the space that the
gradient's columns span, and there they follow from those at the classes of the batch, which are nearly zero but for the
image's own. The length s is the one at which the head computes such errors from the features that go with it. Ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.attacks.separation.heads.head import Head
from unveil.core.least_squares import least_squares

SHORTEST, LENGTHS = -9.0, 901  # logarithm of the smallest s that is tried, and number of those that are
TURNS = 5  # times that the errors at the classes of the batch are computed anew


def certain_features(
    head: Head, gradient: Float[Tensor, "classes features"], labels: Int[Tensor, " n"]
) -> Float[Tensor, "n features"]:
    """Return the features of images of which the head is nearly certain.

    Args:
        head: The head of one Linear layer, in float64.
        gradient: The received gradient of its weight, float64.
        labels: The class index of each image; all differ.
    """
    n = len(labels)
    space = torch.linalg.svd(gradient, full_matrices=False)[0][:, :n]
    basis: Tensor = least_squares(space[labels].T, space.T)  # row b is 1 at class b, 0 at the other ones
    lengths = torch.logspace(SHORTEST, 0, LENGTHS).to(gradient)
    at_labels = -torch.eye(n).to(gradient) / n  # errors at the classes of the batch, in units of each image's s
    found = gradient.new_zeros((n, gradient.shape[1]))
    for _ in range(TURNS):
        features: Tensor = least_squares((at_labels @ basis).T, gradient)
        for image, label in enumerate(labels):
            tried = features[image] / lengths[:, None]
            # The head gives the errors of the mean loss over all rows.
            errors = head.layers(tried, label.expand(LENGTHS))[0].errors * LENGTHS / n
            outside = (errors - errors[:, labels] @ basis).square().sum(1)
            longer = (errors[:, label] + lengths / n).square()
            at = int(((outside + longer) / errors.square().sum(1)).argmin())
            found[image] = tried[at]
            at_labels[image] = errors[at, labels] / (-n * errors[at, label])
    return found
