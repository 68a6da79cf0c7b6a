"""A client of a federation as an app of Flower: it trains, and a mod obfuscates what it sends.

A client draws from generators of its own, which go on from round to round: Flower keeps their states in the client's
context. So it draws what it would draw in a plain loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Generator
from torch.nn import Module

from unveil.advice.federation import Federation
from unveil.advice.flower.messages import answer, asked, failed, loaded, update_of
from unveil.advice.round import own_update, sent_update, sources_of
from unveil.captures.flower.records import flower
from unveil.core.allocation import keep_freed_memory
from unveil.core.arithmetic import Choice, using
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.protocols import Obfuscation
from unveil.core.usercode import blame, is_users

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp

Draws = Literal["training", "obfuscation"]
STATE = "generator"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What every client needs, in Ray's object store.

    Args:
        federation: The federation.
        obfuscation: What changes each update on its way to the server.
        threads: Threads to compute with.
        arithmetic: The arithmetic that the server chose.
        folder: The server's current folder.
    """

    federation: Federation
    obfuscation: Obfuscation
    threads: int
    arithmetic: Choice
    folder: str


def client_app(shared: Any) -> ClientApp:
    """Return what each client runs.

    Args:
        shared: Reference to a `Shared` in Ray's object store.
    """
    from flwr.clientapp import ClientApp

    app = ClientApp(mods=[tell_failures, ObfuscatingMod(shared=shared)])
    app.train()(lambda message, context: trained(message, context, shared))
    return app


def trained(message: Message, context: Context, shared: Any) -> Message:
    """Train on the client's pictures of a round, and send the update."""
    given, at = opened(shared), _place(message, context)
    with using(given.arithmetic):
        generator = _generator(context, "training", at)
        model = loaded(at.model(given), message.content)
        update = own_update(given.federation, model, at.batch(given), generator=generator)
        _keep(context, "training", generator)
    return _reply(message, answer(update, at.client))


@dataclass(frozen=True, kw_only=True)
class ObfuscatingMod:
    """A mod of Flower that obfuscates the update which a client sends.

    Args:
        shared: Reference to a `Shared` in Ray's object store.
    """

    shared: Any

    def __call__(self, message: Message, context: Context, call_next: Callable[..., Any]) -> Message:
        """Hand the message on, and obfuscate the reply."""
        given, at = opened(self.shared), _place(message, context)
        reply = call_next(message, context)
        with using(given.arithmetic):
            generator = _generator(context, "obfuscation", at)
            sent = sent_update(
                given.federation,
                given.obfuscation,
                at.model(given),
                at.batch(given),
                update_of(reply.content),
                generator=generator,
            )
            _keep(context, "obfuscation", generator)
        return _reply(message, answer(sent, at.client))


def tell_failures(message: Message, context: Context, call_next: Callable[..., Any]) -> Message:
    """Send the error with which a client failed; Flower itself would only send its text."""
    try:
        return call_next(message, context)
    except UsageError as error:
        return _reply(message, failed(error))
    except (Exception, SystemExit) as error:
        if is_users(error):
            error = UsageError(blame(error))
        return _reply(message, failed(error if isinstance(error, Exception) else RuntimeError(repr(error))))


@lru_cache(maxsize=1)
def opened(shared: Any) -> Shared:
    """Return what a reference stands for, and make this process ready to compute like the server's."""
    import ray

    given: Shared = ray.get(shared)
    os.chdir(given.folder)
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    return given


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A client in a round: the client's number and the round's, both from 0, and the federation's seed."""

    client: int
    number: int
    seed: int

    def model(self, given: Shared) -> Module:
        """The model of this process; `trained` gives it the weights before the round, and training leaves them."""
        return given.federation.starts[self.seed]

    def batch(self, given: Shared) -> Batch:
        """What the client trains on."""
        return given.federation.held(self.client, self.number, seed=self.seed)


def _place(message: Message, context: Context) -> _Place:
    number, seed = asked(message.content)
    return _Place(client=int(context.node_config["partition-id"]), number=number, seed=seed)


def _generator(context: Context, of: Draws, at: _Place) -> Generator:
    """The client's own generator, which goes on where it was after the round before."""
    training, obfuscation = sources_of(at.seed, at.client)
    generator = training if of == "training" else obfuscation
    if at.number:
        state = context.state.config_records[of][STATE]
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return generator


def _keep(context: Context, of: Draws, generator: Generator) -> None:
    context.state[of] = flower().ConfigRecord({STATE: bytes(generator.get_state().numpy())})


def _reply(message: Message, content: RecordDict) -> Message:
    return flower().Message(content, reply_to=message)
