"""What `run` asks of an audit, of simulated clients and of recorded updates alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from unveil.audits.kept_pictures import Kept
from unveil.core.records import Trial
from unveil.core.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Task:
    """One trial of an audit, ready to be run.

    Args:
        settings: The settings of the trial, which with its seed identify it.
        seed: Its seed.
        run: Runs it; the argument is called after each step of its attack, None for no reports.
    """

    settings: Mapping[str, str]
    seed: int
    run: Callable[[Watch | None], Trial]


@runtime_checkable
class Runnable(Protocol):
    """What `run` runs: an audit of simulated clients, or one of recorded updates."""

    @property
    def images(self) -> Kept:
        """Which pictures the results keep."""
        ...

    @property
    def device(self) -> torch.device:
        """Where attacks are computed."""
        ...

    def __len__(self) -> int: ...

    def settings(self) -> dict[str, Any]:
        """Everything that the results depend on, as plain JSON."""
        ...

    def tasks(self) -> Iterator[Task]:
        """The trials in the order in which they are run."""
        ...
