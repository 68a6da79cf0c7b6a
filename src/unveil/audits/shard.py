"""A part of an audit's trials, for machines that share nothing: each runs one part, and `merge` joins the folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from unveil.audits.kept_pictures import Kept
from unveil.audits.results import trial_key
from unveil.audits.task import Runnable, Task
from unveil.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of the trials.

    Args:
        number: Number of the part, from 1.
        count: Number of parts.

    Raises:
        UsageError: There is no such part.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"--shard {self}: expected a part from 1 to {max(self.count, 1)}; count parts from 1")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse `2/4`, the second of four parts.

        Raises:
            UsageError: It is none.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip(), re.ASCII)
        if found is None:
            raise UsageError(f"--shard {text}: expected I/N, such as 2/4 for the second of four parts")
        return cls(number=int(found[1]), count=int(found[2]))

    def __str__(self) -> str:
        """Return the text from which `parse` makes an equal one."""
        return f"{self.number}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class ShardedAudit:
    """One part of an audit's trials. Parts differ by one trial at most, and each trial is in one of them.

    Trials are dealt out by a hash of what they are, so that no part has all of a slow attack. The hash leaves out the
    arithmetic, which depends on the processor: machines of two kinds must not run a trial twice, or not at all.

    Args:
        audit: The audit.
        shard: Which part.

    Raises:
        UsageError: There are more parts than trials.
    """

    audit: Runnable
    shard: Shard

    def __post_init__(self) -> None:
        if self.shard.count > len(self.audit):
            raise UsageError(
                f"--shard {self.shard}: the audit has only {len(self.audit)} trials; use at most as many parts"
            )

    @property
    def images(self) -> Kept:
        """Which pictures the results keep."""
        return self.audit.images

    @property
    def device(self) -> torch.device:
        """Where attacks are computed."""
        return self.audit.device

    def __len__(self) -> int:
        return sum(1 for _ in self.tasks())

    def settings(self) -> dict[str, Any]:
        """The settings of the whole audit, so that the folders of all parts can be joined."""
        return self.audit.settings()

    def tasks(self) -> Iterator[Task]:
        """The trials of this part, in the order of the audit."""
        tasks = list(self.audit.tasks())
        dealt = sorted(range(len(tasks)), key=lambda at: _hash_of(tasks[at]))[self.shard.number - 1 :: self.shard.count]
        yield from (tasks[at] for at in sorted(dealt))


def _hash_of(task: Task) -> str:
    return trial_key({name: value for name, value in task.settings.items() if name != "arithmetic"}, task.seed)
