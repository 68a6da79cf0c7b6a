"""How far an update is from a gradient, parameter by parameter: the attacker tries it on pictures of his own.

Several local steps and an obfuscation both make the update differ from the gradient of the batch at the weights that
the server sent. On pictures of dead leaves with the labels of the batch the attacker can compute by how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.state import Problem
from unveil.core.batch import Batch
from unveil.core.binding import for_receiver
from unveil.core.factored import dense
from unveil.core.gradient import gradient
from unveil.core.network import in_mode
from unveil.core.types import Tensors
from unveil.core.update import Update

NOISIEST = 0.6  # most distance of an update from a gradient, relative to its length, at which gates are searched
EXACT = 1e-6  # the same, up to which they count as equal


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far an update is from a gradient.

    Args:
        gain: Ratio of the update to the gradient.
        noise: Name of a parameter -> distance of its update, divided by the gain, from its gradient, relative to the
            length of that; empty if they are equal.
    """

    gain: float
    noise: Mapping[str, float]


def distance_of(problem: Problem) -> Distance:
    """Return how far updates like the received one are from a gradient.

    Args:
        problem: Gives the model, the update, the labels and what the attacker knows.

    Raises:
        CannotPeelError: The obfuscation is not known, or the update is hardly a gradient any more.
    """
    knowledge, received = problem.knowledge, problem.update.tensors
    training, obfuscation = knowledge.training, knowledge.obfuscation
    if obfuscation is None:
        raise CannotPeelError("Gates are searched only where the obfuscation is known.")
    pictures = dead_leaves(len(problem.labels), knowledge.image_shape, generator=problem.generator)
    batch = Batch(pictures.to(problem.labels.device), problem.labels)
    client = in_mode(problem.model, training.mode)
    with torch.no_grad():
        at_start = gradient(client, {}, batch, differentiable=False, thin=frozenset(), draws=knowledge.draws)
        own, once = (
            {name: dense(found[name]).to(tensor.dtype) for name, tensor in received.items()}
            for found in (
                knowledge.simulate(problem.model, batch),
                at_start,
            )
        )
        gain = sum(float((own[n] * once[n]).sum()) for n in own) / max(_energy(once), 1e-300)
        if obfuscation.family != "none":
            own = dict(for_receiver(obfuscation, problem.update)(Update(own), generator=problem.generator).tensors)
        off = {name: own[name] / gain - once[name] for name in own}
    whole = (_energy(off) / max(_energy(once), 1e-300)) ** 0.5
    if not whole <= NOISIEST:
        raise CannotPeelError(
            f"The update is {whole:.0%} of its length away from a gradient; gates are searched up to {NOISIEST:.0%}."
        )
    if abs(gain - 1) <= EXACT:
        gain = 1.0
    if whole <= EXACT:
        return Distance(gain=gain, noise={})
    noise = {name: float(off[name].norm() / once[name].norm().clamp_min(1e-30)) for name in off}
    return Distance(gain=gain, noise=noise)


def _energy(tensors: Tensors) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values())
