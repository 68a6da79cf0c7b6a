"""What runs the trials of an audit, as the options of the command line say."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from unveil.core.errors import UsageError

if TYPE_CHECKING:
    from unveil.audits.executor import Executor
    from unveil.audits.task import Runnable
    from unveil.core.reads import Reads
    from unveil.core.workers import MakeCrew


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes that run trials.

    Args:
        count: How many there are, at least 1.
        threads: Threads of each.
        team: Makes them on a cluster; None for processes of this machine.
    """

    count: int
    threads: int
    team: MakeCrew | None = None

    def executor(self, make: Callable[[], Runnable], reads: Reads) -> Executor:
        """What runs the trials of an audit.

        Args:
            make: Makes the audit in each process.
            reads: Pictures and weights that were read where it was made here, which processes of a cluster are given.
        """
        from unveil.audits.workers import Workers

        alike = partial(Workers, make=make, count=self.count, threads=self.threads)
        return alike() if self.team is None else alike(team=self.team, hears_steps=False, reads=reads)


def executor_for(
    make: Callable[[], Runnable], reads: Reads, *, workers: int | None, ray: str | None, gpus: float | None
) -> Executor | None:
    """What runs the trials of an audit; None for one after the other in this process.

    Args:
        make: Makes the audit in a worker.
        reads: As in `Processes.executor`.
        workers: As in `processes_for`, like the other arguments and the errors.
        ray: See there.
        gpus: See there.
    """
    found = processes_for(workers=workers, ray=ray, gpus=gpus)
    return None if found is None else found.executor(make, reads)


def processes_for(
    *, workers: int | None, ray: str | None, gpus: float | None = None, stays: bool = True
) -> Processes | None:
    """The processes that run trials; None for this one.

    Args:
        workers: Number of processes; None for none of their own, and on a cluster for as many as find room.
        ray: Address of a Ray cluster, or `auto`; None for this machine without Ray.
        gpus: GPUs of each process on the cluster; None for none.
        stays: Whether the command stays connected to the cluster until it ends, instead of while trials run.

    Raises:
        UsageError: There is no such cluster, or it has no room for a single trial.
    """
    from unveil.audits.workers import threads_of_each

    if ray is None:
        if gpus is not None:
            raise UsageError("--gpus-per-trial is for --ray; add --ray auto, or leave it out and name a --device")
        return None if workers is None else Processes(count=workers, threads=threads_of_each(workers))
    import torch

    from unveil.core.ray_workers import RayTeam, connected
    from unveil.report.formatting import count

    with ExitStack() as stack:
        resources = stack.enter_context(connected(ray))
        if stays:
            click.get_current_context().with_resource(stack.pop_all())
    threads = torch.get_num_threads() if os.environ.get("OMP_NUM_THREADS") else 1
    room = int(resources.get("CPU", 0) // threads)
    if gpus:
        room = min(room, int(resources.get("GPU", 0) / gpus))
    if not room:
        needed = count(threads, "processor") + (f" and {gpus:g} GPU" if gpus else "")
        raise UsageError(
            f"--ray {ray}: a trial needs {needed}, and the cluster has {resources.get('CPU', 0):g} processors and "
            f"{resources.get('GPU', 0):g} GPU; add nodes, or ask for less by OMP_NUM_THREADS and --gpus-per-trial"
        )
    team = partial(RayTeam, address=ray, cpus=threads, gpus=gpus or 0.0)
    return Processes(count=min(workers or room, room), threads=threads, team=team)
