"""How much of a received update pictures explain: the guard that keeps matching from being worse than no attack.

A search that lowers one distance over the whole update can do so by the few tensors that have most of its energy, such
as the first convolution's, with pictures that are nothing like the client's. Their gradients of all other tensors are
then no nearer to the received ones than those of the grey picture. So tensors are compared one by one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from unveil.attacks.separation.state import Problem
from unveil.core.batch import Batch
from unveil.core.binding import for_receiver
from unveil.core.factored import Candidate, dense, inner, square_norm
from unveil.core.types import Images, Tensors
from unveil.core.update import Update

LEAST = 0.25  # share that pictures have to explain in the median tensor; chosen on 16 runs, see docs/method.md
CLEAR = 0.01  # a tensor counts if the obfuscation leaves at least this much between the grey picture and the truth


def explained_share(problem: Problem, pictures: Images, *, blank: Images) -> float:
    """Return the share of each tensor's cosine distance that pictures explain, in the median over the tensors.

    Of the distance that blank pictures have, only the part is counted that the truth would not have: an obfuscation
    makes a distance even there. Where it is known, that is estimated by obfuscating the simulated update.

    Args:
        problem: Gives the model, the update, the labels and what the attacker knows.
        pictures: The pictures.
        blank: The pictures with which they are compared.

    Returns:
        1 for pictures that explain everything, about 0 for pictures that explain no more than the blank ones, less for
        those that explain less, and 0 if the obfuscation leaves nothing to explain.
    """
    received, obfuscation = problem.update.tensors, problem.knowledge.obfuscation
    with torch.no_grad():
        own, none = (
            problem.knowledge.simulate(problem.model, Batch(images, problem.labels)) for images in (pictures, blank)
        )
        floor: Mapping[str, float] = {}
        if obfuscation is not None and obfuscation.family != "none":
            sent = {name: dense(own[name]).to(y.dtype) for name, y in received.items()}
            rehearsed = for_receiver(obfuscation, problem.update)(Update(sent), generator=problem.generator)
            floor = distances(rehearsed.tensors, sent)
        far, near = distances(received, none), distances(received, own)
    room = {name: far[name] - floor.get(name, 0.0) for name in far}
    shares = [(far[name] - near[name]) / room[name] for name in far if room[name] > CLEAR * far[name]]
    return float(torch.tensor(shares, dtype=torch.float64).median()) if shares else 0.0


def distances(received: Tensors, candidate: Candidate) -> dict[str, float]:
    """Return the cosine distance of each tensor from the received one; tensors of zeros are left out.

    Args:
        received: The received tensors.
        candidate: The simulated update of some pictures.
    """
    found = {}
    for name, y in received.items():
        lengths = float(square_norm(candidate[name])) ** 0.5 * float(y.double().norm())
        if bool(y.any()):
            found[name] = 1 - float(inner(candidate[name], y)) / max(lengths, 1e-30)
    return found
