"""The features of each picture in front of a transformer's last Linear layers, separated without their places."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.separation.factorisation import first_guess
from unveil.attacks.separation.heads.head import Head, NoHeadError, UnplacedError, read_head
from unveil.attacks.separation.state import Problem
from unveil.attacks.separation.tuning import FactorisationTuning

TURNS = 200  # alternations of features and errors: without obfuscation they converge to rounding


def read_last_layers(problem: Problem) -> Head:
    """Return the network's last Linear layers, whether or not their input is a map.

    Raises:
        NoHeadError: The network does not end in Linear layers that were sent.
    """
    knowledge = problem.knowledge
    try:
        return read_head(
            problem.model,
            knowledge.image_shape,
            training=knowledge.training,
            draws=knowledge.draws,
            sent=problem.update.tensors,
        )
    except UnplacedError as unplaced:
        return unplaced.head


def last_features(
    problem: Problem, head: Head, *, gain: float, tuning: FactorisationTuning
) -> Float[Tensor, "n features"]:
    """Separate the features in front of the last Linear layers, exactly where nothing was obfuscated.

    Args:
        problem: Gives the update and the labels, which must differ.
        head: The last Linear layers.
        gain: Ratio of the update's length to that of one gradient.
        tuning: The constants of the factorisation.

    Raises:
        NoHeadError: The layer has fewer outputs than the batch has pictures, or its gradient is zero.
    """
    gradients = [problem.update.tensors[name].to(head.kind) for name in head.weights]
    if len(problem.labels) > gradients[0].shape[0] or not bool(gradients[0].any()):
        raise NoHeadError("The gradient of the last Linear layers does not tell the pictures apart.")
    exact = replace(tuning, first_ridge=10 * torch.finfo(head.kind).eps, first_rounds=TURNS)
    features, _ = first_guess(head, gradients, problem.labels, gain=gain, tuning=exact, generator=problem.generator)
    return features
