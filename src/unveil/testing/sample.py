"""What components are tried on: a small client, and the words in which a broken law is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.core.kinds import refuse_other_kind
from unveil.core.types import Batch, Tensors, Update

CLASSES = 10


def require(holds: bool, sentence: str) -> None:
    """Raise an `AssertionError` of one sentence unless a law holds."""
    if not holds:
        raise AssertionError(sentence)


def require_kind(kind: str, component: Any) -> str:
    """What to call a component in sentences, if it is one of its kind."""
    who = f"{kind} {getattr(component, 'name', component) if kind == 'metric' else component}"
    try:
        refuse_other_kind(kind, who, component)
    except UsageError as error:
        raise AssertionError(str(error)) from None
    return who


def require_round_trip(who: str, component: Any, parse: Callable[[str], Any]) -> None:
    """The printed component builds it again."""
    text = str(component)
    try:
        again = parse(text)
    except UsageError as error:
        raise AssertionError(f"{who}: str() gives no SPEC that builds it ({error}); use `spec_of`") from None
    require(again == component, f"{who}: {text!r} builds {again!r} instead of it; use `spec_of` as its `__str__`")


@contextmanager
def no_global_randomness(who: str) -> Iterator[None]:
    """The global generator of torch is afterwards what it was."""
    before = torch.get_rng_state()
    yield
    require(
        torch.equal(torch.get_rng_state(), before),
        f"{who} drew from torch's global generator; draw from the generator that it is given",
    )


def is_same(some: Tensors, others: Tensors) -> bool:
    """The same names, types and values."""
    return list(some) == list(others) and all(
        tensor.dtype == others[name].dtype and torch.equal(tensor, others[name]) for name, tensor in some.items()
    )


def copied(tensors: Tensors) -> dict[str, Tensor]:
    """A copy to compare with later."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def generator(seed: int) -> Generator:
    """A generator of its own."""
    return Generator().manual_seed(seed)


def client(seed: int, *, pictures: int = 4, size: int = 8) -> tuple[nn.Module, Batch]:
    """A convolution and two Linear layers, and pictures with labels that differ."""
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
    """The gradient of `client`."""
    return Update(FedSGD()(*client(seed)))
