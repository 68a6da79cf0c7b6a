"""What runs the trials of an audit, as the options of the command line say."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from unveil.core.errors import UsageError

if TYPE_CHECKING:
    from unveil.audits.executor import Executor
    from unveil.audits.task import Runnable


def executor_for(
    make: Callable[[], Runnable], *, workers: int | None, ray: str | None, gpus: float | None
) -> Executor | None:
    """What runs the trials; None for one after the other in this process.

    A connection to a Ray cluster lasts until the command ends.

    Args:
        make: Makes the audit in a worker.
        workers: Number of processes; None for none of their own, and on a cluster for as many as find room.
        ray: Address of a Ray cluster, or `auto`; None for this machine without Ray.
        gpus: GPUs of each process on the cluster; None for none.

    Raises:
        UsageError: There is no such cluster, or it has no room for a single trial.
    """
    from unveil.audits.workers import Workers, threads_of_each

    if ray is None:
        if gpus is not None:
            raise UsageError("--gpus-per-trial is for --ray; add --ray auto, or leave it out and name a --device")
        return None if workers is None else Workers(make=make, count=workers, threads=threads_of_each(workers))
    import torch

    from unveil.core.ray_workers import RayTeam, connected
    from unveil.report.formatting import count

    resources = click.get_current_context().with_resource(connected(ray))
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
    size = min(workers or room, room)
    team = partial(RayTeam, cpus=threads, gpus=gpus or 0.0)
    return Workers(make=make, count=size, threads=threads, team=team, hears_steps=False)
