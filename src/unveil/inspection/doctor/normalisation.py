"""Normalisation: were the pictures those that the manifest's normalisation gives?

The first layer's gradient is a sum of errors times pictures, its bias's gradient the sum of the errors. So their ratio,
over the outputs, is a weighted mean of the pixels, and the part of the gradient that changes from place to place is as
large as their contrast. BatchNorm behind the first layer says both outright: its statistics are mean and variance of
what that layer makes of the pixels. Dead leaves under each usual normalisation say how far either may lie from that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.gradient import gradient
from unveil.core.network import in_mode
from unveil.core.types import Images
from unveil.inspection.doctor.evidence import MOST, Evidence
from unveil.inspection.doctor.faults import Fault, Findings, Untold
from unveil.inspection.doctor.first_layer import FirstLayer, first_layer, of_gradients, of_statistics

NORMALISATION = "normalisation"

Numbers = tuple[tuple[float, ...], tuple[float, ...]]

USUAL: Mapping[str, Numbers] = {
    "none": ((0.0,), (1.0,)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "to [-1, 1]": ((0.5,), (0.5,)),
    "MNIST's": ((0.1307,), (0.3081,)),
    "8-bit pixels, 0 to 255": ((0.0,), (1 / 255,)),
}
"""Normalisations that systems use: mean and standard deviation of pixels in [0, 1]."""
EXPOSURES = (-0.14, -0.07, -0.02, 0.02, 0.07, 0.14)
"""What is added to the pixels of each batch of dead leaves: real batches are darker or brighter by as much."""
WIDTHS = (0.08, 0.2, 0.3)
"""Standard deviations that real pictures have beside dead leaves: of the mean, and of the logarithms of its size and of
the contrast."""
MARGIN = 6.0
"""Nats by which another normalisation must be likelier: odds of 400 to 1."""
UNLIKELY = 6.0
"""Nats by which the manifest's must miss its own rehearsals, so that a fault is none of the table's alone."""
EQUAL = 4.0
"""Nats within which two normalisations cannot be told apart."""


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """How badly each normalisation explains the update.

    Args:
        declared: Nats for the manifest's.
        usual: Name of another one -> nats; empty where the manifest's explains the update.
        mean: Mean of the first layer's input, as the update has it.
        expected: The same under the manifest's normalisation.
    """

    declared: float
    usual: Mapping[str, float]
    mean: float
    expected: float


def normalisation(evidence: Evidence) -> Findings:
    """Compare the first layer's update with rehearsals under the manifest's normalisation and under the usual ones."""
    found = likelihoods(evidence)
    if isinstance(found, str):
        yield Untold(name=NORMALISATION, reason=found)
        return
    best = min(found.usual, key=found.usual.__getitem__, default=None)
    if best is None or found.declared - found.usual[best] < MARGIN:
        return
    equals = [name for name, nats in found.usual.items() if name != best and nats < found.usual[best] + EQUAL]
    facts = evidence.examined.facts
    said = "none" if facts.normalisation.value is None else "its own"
    yield Fault(
        name=NORMALISATION,
        severity="error",
        evidence=f"pixels reach the first layer with a mean of about {found.mean:.2f}, where the manifest's "
        f"normalisation ({said}) gives {found.expected:.2f}; {best!r} explains mean and "
        f"{math.exp(min(found.declared - found.usual[best], 16.0)):,.0f} times better",
        fix="say how the client's pictures were normalised, or leave the manifest's out if they were not",
        fact=None if equals else f"normalisation={_as_fact(best, evidence)}",
        instead=tuple(f"normalisation {name}" for name in equals),
    )


def _as_fact(name: str, evidence: Evidence) -> str:
    if name == "none":
        return "unknown"
    mean, std = (_spread(values, evidence) for values in USUAL[name])
    return f"{{mean = {list(mean)}, std = {list(std)}}}"


def _spread(values: tuple[float, ...], evidence: Evidence) -> tuple[float, ...]:
    shape = evidence.examined.facts.image_shape.value
    return values * shape[0] if shape is not None and len(values) == 1 else values


def likelihoods(evidence: Evidence) -> Likelihoods | str:
    """Rehearse the first layer under every normalisation; a clause that says why not if that cannot be done."""
    examined = evidence.examined
    shape = examined.facts.image_shape.value
    if evidence.cannot_rehearse or examined.network is None or shape is None:
        return evidence.cannot_rehearse
    if not examined.is_exact:
        return "behind this obfuscation the first layer says too little of its input"
    layer = first_layer(examined, examined.normalised(evidence.pictures(2, 0)))
    if isinstance(layer, str):
        return layer
    labels = torch.zeros(min(examined.batch_size or MOST, MOST)) if layer.is_statistics else evidence.labels
    if isinstance(labels, str):
        return labels
    observed = layer.observed
    declared = _explains(evidence, layer, labels, None)
    if declared is None:
        return "the network fails on public pictures"
    usual: dict[str, float] = {}
    is_explained = declared.nats(observed) < UNLIKELY  # then the others need not be rehearsed
    for name, (mean, std) in () if is_explained else USUAL.items():
        if len(mean) in (1, shape[0]) and (name != "MNIST's" or shape[0] == 1) and not _is_said(evidence, (mean, std)):
            found = _explains(evidence, layer, labels, (_spread(mean, evidence), _spread(std, evidence)))
            if found is not None:
                usual[name] = found.nats(observed)
    return Likelihoods(
        declared=declared.nats(observed), usual=usual, mean=float(observed[0]), expected=float(declared.mean[0])
    )


def _is_said(evidence: Evidence, numbers: Numbers) -> bool:
    """Whether these are the numbers of the manifest."""
    given = evidence.examined.facts.normalisation.value
    said = ((0.0,), (1.0,)) if given is None else (tuple(given["mean"]), tuple(given["std"]))
    return all(
        torch.allclose(torch.tensor(_spread(a, evidence)), torch.tensor(_spread(b, evidence)), atol=0.01)
        for a, b in zip(said, numbers, strict=True)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rehearsed:
    """Mean and standard deviation of the first layer's numbers in rehearsals."""

    mean: Float[Tensor, " numbers"]
    deviation: Float[Tensor, " numbers"]

    def nats(self, observed: Float[Tensor, " numbers"]) -> float:
        """Negative log-likelihood of what was received, but for a constant."""
        off = (observed - self.mean) / self.deviation
        return float((off.square() / 2).sum())


def _explains(
    evidence: Evidence, layer: FirstLayer, labels: Shaped[Tensor, " n"], numbers: Numbers | None
) -> _Rehearsed | None:
    """Rehearse one normalisation, the manifest's for None; None if the network fails."""
    examined = evidence.examined
    assert examined.network is not None
    client = in_mode(examined.network, examined.mode)
    found = []
    for seed, exposure in enumerate(EXPOSURES):
        leaves = (evidence.pictures(len(labels), 100 + seed) + exposure).clamp(0, 1)
        images = _normalised(evidence, leaves, numbers)
        if layer.is_statistics:
            found.append(of_statistics(layer, images))
            continue
        try:
            slopes = gradient(client, {}, Batch(images, labels), differentiable=False, thin=frozenset(), draws=None)
        except UsageError:
            return None
        found.append(of_gradients(layer, {n: t for n, t in slopes.items() if isinstance(t, Tensor)}))
    numbers_of = torch.stack(found).detach()
    width = torch.tensor(WIDTHS[: numbers_of.shape[1]]).double()
    return _Rehearsed(mean=numbers_of.mean(0), deviation=(numbers_of.var(0) + width.square()).sqrt())


def _normalised(evidence: Evidence, images: Images, numbers: Numbers | None) -> Images:
    if numbers is None:
        return evidence.examined.normalised(images)
    mean, std = (images.new_tensor(values)[:, None, None] for values in numbers)
    return (images - mean) / std
