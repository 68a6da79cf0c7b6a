"""Inside a worker process: make the audit, check that it is the parent's, and run the trials that arrive."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from unveil.audits.folder_settings import flat
from unveil.audits.results import trial_key
from unveil.audits.task import Runnable, Task
from unveil.audits.trial import versions_on
from unveil.core.allocation import keep_freed_memory
from unveil.core.arithmetic import Choice, using
from unveil.core.errors import UsageError
from unveil.core.files import shown
from unveil.core.reads import Reads, sharing
from unveil.core.records import Trial
from unveil.core.types import Images
from unveil.core.usercode import blame, is_users
from unveil.core.watch import Progress
from unveil.core.workers import Send

OFTEN = 0.1  # seconds between the steps that the parent hears of


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker is given once.

    Args:
        make: Makes the audit.
        folder: The current folder.
        arithmetic: The arithmetic that the parent chose.
        threads: Threads to compute with.
        settings: The settings of the parent's audit.
        versions: The versions that trials must have.
        watched: Whether steps of attacks are reported.
        reads: Pictures and weights that the parent has read; the worker reads the others itself.
    """

    make: Callable[[], Runnable]
    folder: str
    arithmetic: Choice
    threads: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    watched: bool
    reads: Reads = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Said:
    """A message of a logger, for the parent to log."""

    logger: str
    level: int
    message: str


def begin(order: Order) -> Trials:
    """Make the audit in this process.

    Raises:
        UsageError: The audit or the versions are not those of the parent, which the message names.
    """
    keep_freed_memory()
    try:
        os.chdir(order.folder)
    except OSError as error:
        raise UsageError(
            f"a worker process cannot open {shown(order.folder)} ({error.strerror}); on a cluster, every node needs it "
            "at the same place, as on a shared disk"
        ) from None
    sys.stdout = sys.stderr  # a user's model may print, and standard output is for results
    torch.set_num_threads(order.threads)
    logging.getLogger("unveil").addHandler(logging.NullHandler())  # the parent has said what making an audit says
    with using(order.arithmetic), sharing(order.reads):
        audit = order.make()
        refuse_difference("version", order.versions, versions_on(audit.device), "restart the audit")
        now = json.loads(json.dumps(audit.settings()))
        fix = "leave its files alone while it runs, and let a network of your own have the same weights each time"
        refuse_difference("setting", json.loads(json.dumps(order.settings)), now, fix)
        tasks = {trial_key(task.settings, task.seed): task for task in audit.tasks()}
    return Trials(tasks=tasks, order=replace(order, reads={}))


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Runs trials by key.

    Args:
        tasks: The trials by key.
        order: What the worker was given.
    """

    tasks: Mapping[str, Task]
    order: Order

    def __call__(self, key: str, send: Send) -> Trial:
        """Run a trial; its pictures come back on the processor.

        Raises:
            UsageError: The trial cannot be run, or the user's network failed.
        """
        watch = _Steps(send=send) if self.order.watched else None
        try:
            with using(self.order.arithmetic), _logging_to(send):
                trial = self.tasks[key].run(watch)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            if is_users(error):
                raise UsageError(blame(error)) from None
            raise
        return replace(trial, pictures={name: images.cpu() for name, images in trial.pictures.items()})


def refuse_difference(kind: str, wanted: Mapping[str, Any], found: Mapping[str, Any], fix: str) -> None:
    """Raise a `UsageError` that names the first setting or version in which a worker is not as its parent.

    Args:
        kind: What is compared, for the message.
        wanted: Those of the parent, plain JSON.
        found: Those of the worker.
        fix: The end of the message: what to do.
    """
    one, other = flat(dict(wanted)), flat(dict(found))
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            pair = [shown(str(values.get(name, "absent"))) for values in (one, other)]
            raise UsageError(
                f"a worker process has another {kind} than the process that started it: {shown(name)} is {pair[0]} "
                f"there and {pair[1]} in the worker; {fix}"
            )


def elsewhere() -> Images:
    """What stands for the pictures of a running attack in another process: a `UsageError`."""
    raise UsageError("the pictures of a running attack stay in its worker process; run the audit without workers")


@dataclass(kw_only=True)
class _Steps:
    """A watch that sends steps, at most one each `OFTEN` seconds."""

    send: Send
    last: float = field(default_factory=time.monotonic)

    def __call__(self, step: Progress) -> None:
        if (now := time.monotonic()) - self.last >= OFTEN:
            self.last = now
            self.send(replace(step, loss=float(step.loss), images=elsewhere))


class _Forwarding(logging.Handler):
    """Sends each message."""

    def __init__(self, send: Send) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(Said(logger=record.name, level=record.levelno, message=record.getMessage()))


@contextmanager
def _logging_to(send: Send) -> Iterator[None]:
    """Send the warnings of unveil's loggers inside the `with` block."""
    logger, handler = logging.getLogger("unveil"), _Forwarding(send)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
