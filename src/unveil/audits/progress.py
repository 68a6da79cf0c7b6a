"""How far an audit is, over all trials that run at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unveil.audits.task import Task
from unveil.core.records import Trial
from unveil.core.watch import Progress


@dataclass(frozen=True, kw_only=True)
class AuditProgress:
    """How far an audit is. Sent when a trial starts, after steps of its attack, and when the trial ends.

    Args:
        done: Number of finished trials, those of an earlier run included.
        total: Number of trials in the audit.
        settings: The settings of the present trial.
        seed: The seed of the present trial.
        step: The last step of its attack; None before the first.
        trial: The finished trial; None until it has ended.
        running: Number of trials that run at present.
        under_way: What is done of these, in trials: 0.5 for half of one, up to `running`.
    """

    done: int
    total: int
    settings: Mapping[str, str]
    seed: int
    step: Progress | None = None
    trial: Trial | None = None
    running: int = 1
    under_way: float = 0.0


class Board:
    """Keeps which trials run and what is done of each, and sends it.

    Args:
        tasks: The trials that are to be run, by key.
        done: Number of trials that an earlier run has finished.
        send: Called with every `AuditProgress`.
    """

    def __init__(self, tasks: Mapping[str, Task], *, done: int, send: Callable[[AuditProgress], None]) -> None:
        self._tasks, self._done, self._send = tasks, done, send
        self._total = done + len(tasks)
        self._shares: dict[str, float] = {}  # of each running trial, 0 to 1

    def report(self, key: str, step: Progress | None) -> None:
        """A trial has started, or its attack has taken a step; see `Executor`."""
        self._shares[key] = 0.0 if step is None else min(step.step / max(step.steps, 1), 1.0)
        self._tell(key, step=step)

    def end(self, key: str, trial: Trial) -> None:
        """A trial has ended and is kept."""
        del self._shares[key]
        self._done += 1
        self._tell(key, trial=trial)

    def _tell(self, key: str, *, step: Progress | None = None, trial: Trial | None = None) -> None:
        task = self._tasks[key]
        self._send(
            AuditProgress(
                done=self._done,
                total=self._total,
                settings=task.settings,
                seed=task.seed,
                step=step,
                trial=trial,
                running=len(self._shares),
                under_way=sum(self._shares.values()),
            )
        )
