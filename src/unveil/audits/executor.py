"""What runs the trials of an audit: one after the other in this process (`Serial`), or `workers.Workers`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch

from unveil.audits.task import Runnable, Task
from unveil.audits.trial import versions_on
from unveil.core.records import Trial
from unveil.core.watch import Progress

Report = Callable[[str, Progress | None], None]
"""Called with the key of a trial: when it starts with None, and after steps of its attack with the step."""


@runtime_checkable
class Executor(Protocol):
    """Runs trials. Whatever runs them, the same trial has the same scores under the same circumstances."""

    def versions(self, device: torch.device) -> Mapping[str, str]:
        """The `versions` that its trials on a device will have."""
        ...

    def __call__(
        self, audit: Runnable, tasks: Mapping[str, Task], report: Report | None
    ) -> Generator[tuple[str, Trial], None, None]:
        """Run trials, and give each with its key as soon as it ends, in any order.

        Args:
            audit: The audit.
            tasks: Those of its trials that are to be run, by key.
            report: Called while they run; None for no reports.

        Raises:
            UsageError: A trial cannot be run; what runs at the same time is stopped.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Serial:
    """Runs one trial after the other in this process."""

    def versions(self, device: torch.device) -> Mapping[str, str]:
        """See `Executor`."""
        return versions_on(device)

    def __call__(
        self, audit: Runnable, tasks: Mapping[str, Task], report: Report | None
    ) -> Generator[tuple[str, Trial], None, None]:
        """See `Executor`."""
        for key, task in tasks.items():
            if report is not None:
                report(key, None)
            yield key, task.run(None if report is None else partial(report, key))
