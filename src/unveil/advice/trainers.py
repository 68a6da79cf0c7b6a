"""What trains a federation: a plain loop in this process, or Flower's simulation engine where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from unveil import __version__
from unveil.advice.federation import Federation
from unveil.advice.flower.trainer import clients_at_once, flower_rounds, lacking, versions
from unveil.advice.round import Rounds, in_turn
from unveil.core.errors import UsageError
from unveil.core.protocols import Obfuscation

TrainerName = Literal["auto", "flower", "plain"]
"""`flower` is Flower's simulation engine, `plain` a loop in this process, and `auto` Flower where it can be used."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What trains a federation. The weights do not depend on it.

    Args:
        name: Its name and version, for results.
        ready: Makes it ready to train a federation through an obfuscation, for the time of a `with` block, inside which
            there is a function from a seed to the rounds.
        processes: Number of processes that it starts for a federation.
        note: Why it is not the one that was meant, for the user; empty if it is.
    """

    name: str
    ready: Callable[[Federation, Obfuscation], AbstractContextManager[Callable[[int], Rounds]]]
    processes: Callable[[Federation], int]
    note: str = ""


@contextmanager
def _plainly(federation: Federation, obfuscation: Obfuscation) -> Iterator[Callable[[int], Rounds]]:
    yield partial(in_turn, federation, obfuscation)


PLAIN = Trainer(name=f"plain loop of unveil {__version__}", ready=_plainly, processes=lambda federation: 0)
"""One client after the other, in this process."""


def trainer_named(name: TrainerName) -> Trainer:
    """Return the trainer of a name.

    Raises:
        UsageError: Flower is wanted, and it is not installed, too old, or without what its simulation engine needs.
    """
    if name == "plain":
        return PLAIN
    missing = lacking()
    if missing is None:
        return Trainer(name=versions(), ready=flower_rounds, processes=clients_at_once)
    if name == "flower":
        raise UsageError(f"federation.trainer: {missing.reason}; {missing.fix}")
    return replace(PLAIN, note=missing.reason if missing.is_there else "")
