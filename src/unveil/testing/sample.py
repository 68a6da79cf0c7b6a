"""A small client on which components are tried, and functions that raise an error if a law is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, nn

from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.kinds import refuse_other_kind
from unveil.core.types import Tensors
from unveil.core.update import Update

CLASSES = 10


def require(holds: bool, sentence: str) -> None:
    """Raise an `AssertionError` with this sentence unless a law holds."""
    if not holds:
        raise AssertionError(sentence)


def require_kind(kind: str, component: Any) -> str:
    """Return the name of a component for messages; raise an `AssertionError` if it is not of this kind."""
    who = f"{kind} {getattr(component, 'name', component) if kind == 'metric' else component}"
    try:
        refuse_other_kind(kind, who, component)
    except UsageError as error:
        raise AssertionError(str(error)) from None
    return who


def require_round_trip(who: str, component: Any, parse: Callable[[str], Any]) -> None:
    """Raise an `AssertionError` unless `parse` builds an equal component from the printed one."""
    text = str(component)
    try:
        again = parse(text)
    except UsageError as error:
        raise AssertionError(f"{who}: str() gives no SPEC that builds it ({error}); use `spec_of`") from None
    require(again == component, f"{who}: {text!r} builds {again!r} instead of it; use `spec_of` as its `__str__`")


@contextmanager
def no_global_randomness(who: str) -> Iterator[None]:
    """Raise an `AssertionError` if the code inside the `with` block changed the state of torch's global generator."""
    before = torch.get_rng_state()
    yield
    require(
        torch.equal(torch.get_rng_state(), before),
        f"{who} drew from torch's global generator; draw from the generator that it is given",
    )


def is_same(some: Tensors, others: Tensors) -> bool:
    """Return whether both have the same names in the same order, and equal types and values."""
    return list(some) == list(others) and all(
        tensor.dtype == others[name].dtype and torch.equal(tensor, others[name]) for name, tensor in some.items()
    )


def copied(tensors: Tensors) -> Tensors:
    """Return detached copies of the tensors."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def generator(seed: int) -> Generator:
    """Return a new generator with this seed."""
    return Generator().manual_seed(seed)


def client(seed: int, *, pictures: int = 4, size: int = 8) -> tuple[nn.Module, Batch]:
    """Return a model with a convolution and two Linear layers, and a batch of random pictures with different labels.

    Args:
        seed: Seed of the weights, the pictures and the labels.
        pictures: Number of pictures, at most `CLASSES`.
        size: Height and width of the pictures, pixels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(4 * size * size, 32),
            nn.Tanh(),
            nn.Linear(32, CLASSES),
        ).eval()
    draw = generator(seed)
    images = torch.rand((pictures, 3, size, size), generator=draw)
    return model, Batch(images, torch.randperm(CLASSES, generator=draw)[:pictures])


def update(seed: int) -> Update:
    """Return the update that `client` with this seed sends with FedSGD: its gradient."""
    return Update(FedSGD()(*client(seed)))
