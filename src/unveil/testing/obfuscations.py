"""The laws of obfuscations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.binding import for_client
from unveil.core.factored import Candidate, Factored
from unveil.core.protocols import HasEntryModels, Obfuscation
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.testing.sample import (
    client,
    copied,
    generator,
    is_same,
    no_global_randomness,
    require,
    require_kind,
    require_round_trip,
    update,
)

DRAWS = 20  # runs of a random obfuscation whose misfits are averaged, because one run can favour a wrong candidate


def check_obfuscation(obfuscation: Any, *, seed: int = 0) -> None:
    """Check an obfuscation: it keeps names, shapes and types, and its misfit is lowest at the truth, among other laws.

    Args:
        obfuscation: An obfuscation with usual settings.
        seed: Seed of the client on which it is tried, and of its own draws.

    Raises:
        AssertionError: The obfuscation breaks a law; the message names the first.
    """
    who = require_kind("obfuscation", obfuscation)
    require_round_trip(who, obfuscation, parse)
    sent = update(seed)
    obfuscation = for_client(obfuscation, *client(seed), FedSGD())
    before = copied(sent.tensors)
    with no_global_randomness(who):
        received = obfuscation(sent, generator=generator(seed))
        again = obfuscation(sent, generator=generator(seed))
    require(is_same(sent.tensors, before), f"{who} changed its input; return new tensors")
    require(is_same(received.tensors, again.tensors), f"{who} is another for the same seed; draw from the generator")
    require(received.wire_bits == again.wire_bits, f"{who} has another size on the wire for the same seed")
    _check_tensors(who, sent, received)
    most = sent.wire_bits + 32 * len(sent.tensors)
    require(
        0 < received.wire_bits <= most,
        f"{who} sends {received.wire_bits} bits, not more than 0 and at most {most}, what plain floats take; "
        "say in `coding` what it sends",
    )
    _check_zeros(who, obfuscation, sent, seed)
    _check_misfit(who, obfuscation, sent, seed)
    _check_entry_models(who, obfuscation, sent, received)


def _check_tensors(who: str, sent: Update, received: Update) -> None:
    require(list(received.tensors) == list(sent.tensors), f"{who} does not keep the tensors' names and their order")
    for name, tensor in received.tensors.items():
        before = sent.tensors[name]
        require(tensor.shape == before.shape, f"{who} makes {name!r} {tuple(tensor.shape)} of {tuple(before.shape)}")
        require(tensor.dtype == before.dtype, f"{who} makes {name!r} {tensor.dtype} of {before.dtype}; convert it back")
        require(bool(torch.isfinite(tensor).all()), f"{who} makes NaN or infinite values in {name!r}")


def _check_zeros(who: str, obfuscation: Obfuscation, sent: Update, seed: int) -> None:
    last = list(sent.tensors)[-1]
    zeros = Update({**sent.tensors, last: torch.zeros_like(sent.tensors[last])})
    received = obfuscation(zeros, generator=generator(seed))
    _check_tensors(f"{who}, on a tensor of zeros,", zeros, received)
    value = obfuscation.misfit(received)(zeros.tensors)
    require(bool(torch.isfinite(value)), f"{who}: its misfit of an update with a tensor of zeros is {float(value)}")


def _check_misfit(who: str, obfuscation: Obfuscation, sent: Update, seed: int) -> None:
    misfits = [obfuscation.misfit(obfuscation(sent, generator=generator(seed + i))) for i in range(DRAWS)]

    def mean(candidate: Candidate) -> float:
        return float(torch.stack([misfit(candidate) for misfit in misfits]).mean())

    truth = mean(sent.tensors)
    for name, rival in _rivals(sent, seed).items():
        worse = mean(rival) - truth
        require(worse > 0, f"{who}: its misfit of {name} is lower by {-worse:g} than at the truth; it must be higher")
    name, matrix = next((n, t) for n, t in sent.tensors.items() if t.ndim == 2)
    draw = generator(seed)
    thin = Factored(
        ((1.0, torch.randn(2, len(matrix), generator=draw), torch.randn(2, matrix.shape[1], generator=draw)),)
    )
    pairs = [(float(m({**sent.tensors, name: thin})), float(m({**sent.tensors, name: thin.dense()}))) for m in misfits]
    require(
        all(abs(some - other) <= 1e-3 * abs(other) + 1e-6 for some, other in pairs),
        f"{who}: its misfit of thin factors is not that of the matrix that they make; use `dense` of core.factored",
    )


def _rivals(sent: Update, seed: int) -> Mapping[str, Candidate]:
    """Return candidates that are wrong: zeros, the negated update, and updates of other pictures or labels."""
    model, batch = client(seed)
    _, other = client(seed + 1)
    return {
        "zeros": {name: torch.zeros_like(tensor) for name, tensor in sent.tensors.items()},
        "the opposite": {name: -tensor for name, tensor in sent.tensors.items()},
        "other pictures": FedSGD()(model, other),
        "other labels": FedSGD()(model, Batch(batch.images, batch.labels.roll(1))),
    }


def _check_entry_models(who: str, obfuscation: Obfuscation, sent: Update, received: Update) -> None:
    if not isinstance(obfuscation, HasEntryModels):
        return
    for name, entry_model in obfuscation.entry_models(received).items():
        target, weight = entry_model(sent.tensors[name], (slice(None), slice(None)))
        require(
            bool(torch.isfinite(target).all()), f"{who}: its entry model of {name!r} has targets that are not finite"
        )
        require(
            0 <= float(weight.min()) <= float(weight.max()) <= 1,
            f"{who}: its entry model of {name!r} has weights outside 0 to 1",
        )
