"""What travels between the server of a federation and its clients, in Flower's records.

The server sends the network's weights with the seed and the number of the round. A client answers with its update,
which is what the server subtracts; with the changes of its buffers, if it sends them; and with the size of all that on
the wire, which is reckoned where the obfuscation was applied.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtyping import Shaped
from torch import Tensor
from torch.nn import Module

from unveil.advice.flower.engine import FIX
from unveil.advice.round import Received
from unveil.captures.flower.records import arrays_of, flower
from unveil.core.errors import UsageError
from unveil.core.files import reason_of
from unveil.core.update import BufferChanges, Update
from unveil.core.workers import portable

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, RecordDict

WEIGHTS, UPDATE, STATISTICS, COUNTERS = "arrays", "update", "statistics", "counters"
CONFIG, SIZES, FAILURE = "config", "sizes", "failure"
ROUND, SEED, CLIENT, BITS, ERROR = "server-round", "seed", "client", "wire-bits", "error"


def asking(model: Module, number: int, *, seed: int) -> RecordDict:
    """Return what the server sends to every client of a round.

    Args:
        model: The model before the round.
        number: Number of the round, from 0; Flower counts from 1.
        seed: Seed of the federation.
    """
    app = flower()
    config = app.ConfigRecord({ROUND: number + 1, SEED: seed})
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return app.RecordDict({WEIGHTS: _record(weights), CONFIG: config})


def loaded(model: Module, content: RecordDict) -> Module:
    """Give a model the weights that the server sent, and return it."""
    model.load_state_dict(arrays_of(content, WEIGHTS)[1])
    return model


def asked(content: RecordDict) -> tuple[int, int]:
    """Return the number of the round, from 0, and the federation's seed, of what the server sent."""
    config = content.config_records[CONFIG]
    return int(config[ROUND]) - 1, int(config[SEED])


def answer(update: Update, client: int) -> RecordDict:
    """Return what a client sends.

    Args:
        update: Its update.
        client: Its number, from 0.
    """
    app = flower()
    records = {UPDATE: _record(update.tensors), SIZES: app.MetricRecord({CLIENT: client, BITS: update.wire_bits})}
    if update.buffers is not None:
        records |= {STATISTICS: _record(update.buffers.statistics.tensors), COUNTERS: _record(update.buffers.counters)}
    return app.RecordDict(records)


def failed(error: Exception) -> RecordDict:
    """Return what a client sends if it could not train."""
    app = flower()
    return app.RecordDict({FAILURE: app.ConfigRecord({ERROR: pickle.dumps(portable(error))})})


def received(content: RecordDict) -> tuple[int, Received]:
    """Return the number of a client, from 0, and what it sent; raise the error that it failed with, if it did."""
    if FAILURE in content:
        raise pickle.loads(content.config_records[FAILURE][ERROR])  # of a process of our own
    sizes = content.metric_records[SIZES]
    return int(sizes[CLIENT]), Received(update=update_of(content), wire_bits=int(sizes[BITS]))


def update_of(content: RecordDict) -> Update:
    """Return the tensors and buffers of what a client sends, without how they were written."""
    buffers = None
    if STATISTICS in content:
        statistics = Update(arrays_of(content, STATISTICS)[1])
        buffers = BufferChanges(statistics=statistics, counters=arrays_of(content, COUNTERS)[1])
    return Update(arrays_of(content, UPDATE)[1], buffers=buffers)


def _record(tensors: Mapping[str, Shaped[Tensor, " ..."]]) -> ArrayRecord:
    app = flower()
    try:
        return app.ArrayRecord({name: app.Array(tensor.cpu().numpy()) for name, tensor in tensors.items()})
    except TypeError as error:  # NumPy has no bfloat16
        raise UsageError(f"Flower cannot send the model's weights ({reason_of(error)}); {FIX}") from None
