"""Flower's simulation engine as what trains a federation: whether it can be used, and its rounds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import torch
from torch.nn import Module

from unveil.advice.federation import Federation
from unveil.advice.flower.client import Shared, client_app
from unveil.advice.flower.engine import FIX, Engine, local_ray, simulation
from unveil.advice.flower.messages import asking, received
from unveil.advice.round import Received, Rounds
from unveil.captures.flower.records import OLDEST, version
from unveil.core.arithmetic import choice
from unveil.core.errors import UsageError
from unveil.core.protocols import Obfuscation
from unveil.core.usercode import one_line_of


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """What Flower's simulation engine lacks here.

    Args:
        reason: What it is.
        is_there: Whether Flower itself is installed.
    """

    reason: str
    is_there: bool

    @property
    def fix(self) -> str:
        """What to do."""
        return "pip install 'unveil[flower]', or set trainer = \"plain\" to train without it"


def lacking() -> Lacking | None:
    """Return what the engine lacks; None if it can be used."""
    try:
        found = version()
    except PackageNotFoundError:
        return Lacking(reason="Flower is not installed", is_there=False)
    numbers = [tuple(int(part) for part in text.split(".")[:2]) for text in (found, OLDEST)]
    if numbers[0] < numbers[1]:
        return Lacking(reason=f"Flower {found} is too old, {OLDEST} or newer is needed", is_there=True)
    try:
        installed("ray")
    except PackageNotFoundError:
        return Lacking(reason=f"Flower {found} is installed without Ray, on which its simulation runs", is_there=True)
    return None


def versions() -> str:
    """Return the versions of Flower and Ray in words."""
    return f"Flower {version()} on Ray {installed('ray')}"


def clients_at_once(federation: Federation) -> int:
    """Return how many clients train at a time: each takes as many processors as this process has threads."""
    return max(1, min(federation.clients, processors() // torch.get_num_threads()))


def processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


@contextmanager
def flower_rounds(federation: Federation, obfuscation: Obfuscation) -> Iterator[Callable[[int], Rounds]]:
    """Start the engine for the time of the `with` block, inside which there is a function from a seed to the rounds.

    Args:
        federation: The federation.
        obfuscation: What changes each update on its way to the server, as a mod of Flower at each client.

    Raises:
        UsageError: The engine does not start, or the model cannot be sent to its processes.
    """
    threads = torch.get_num_threads()
    with local_ray(clients_at_once(federation) * threads):
        import ray

        shared = Shared(
            federation=federation,
            obfuscation=obfuscation,
            threads=threads,
            arithmetic=choice(),
            folder=os.getcwd(),
        )
        try:
            reference = ray.put(shared)
        except Exception as error:  # whatever pickling a user's network raises
            raise UsageError(f"the model cannot be sent to Flower's clients, {one_line_of(error)}; {FIX}") from None
        with simulation(client_app(reference), clients=federation.clients, threads=threads) as engine:
            yield partial(_rounds, engine)


def _rounds(engine: Engine, seed: int) -> Rounds:
    return partial(_round, engine, seed=seed)


def _round(engine: Engine, model: Module, number: int, *, seed: int) -> Sequence[Received]:
    """What the server receives in a round, in the order of the clients."""
    found: dict[int, Received] = {}
    for reply in engine.ask(asking(model, number, seed=seed)):
        if reply.has_error():
            raise UsageError(
                f"Flower's simulation lost a client ({_kind(reply.error.reason)}), as when memory runs out; free "
                f"memory, or {FIX}"
            )
        client, sent = received(reply.content)
        found[client] = sent
    return [found[client] for client in sorted(found)]


def _kind(reason: object) -> str:
    """The exception in what Flower says of a failure, such as `<class 'ray.exceptions.ActorDiedError'>:<'...'>`."""
    found = re.match(r"<class '(?:\w+\.)*(\w+)'>", str(reason))
    return found[1] if found else "no reason given"
