"""Calling a ClientApp of Flower in this process, without a server or a simulation, and recording what it sends."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Shaped
from torch import Tensor

from unveil.captures.flower.recording import trained
from unveil.captures.flower.records import flower
from unveil.captures.recorder import Recorder
from unveil.core.errors import UsageError
from unveil.core.files import shown

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp


def drive(
    app: ClientApp,
    weights: Mapping[str, Shaped[Tensor, " ..."]],
    folder: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    run_config: Mapping[str, Any] | None = None,
    partition: int = 0,
    partitions: int = 1,
    round: int = 1,
    keep_labels: bool = False,
    keep_pictures: bool = True,
    **declared: Any,
) -> Path:
    """Let a client's own code train once, in this process, and record what it sends.

    Point the code at pictures that may be seen, by its `run_config` or its partition: they are kept beside the recorded
    update, so that an audit can score what comes back.

    Args:
        app: The user's own ClientApp, with its mods; of the message API, or with a legacy `client_fn`.
        weights: The weights that the server sends, such as `Net().state_dict()`.
        folder: The folder of the recorded updates.
        config: What the server sends beside the weights, such as `{"lr": 0.01}`.
        run_config: The settings of the run, as in the app's `pyproject.toml`.
        partition: The client's partition of the data, from 0.
        partitions: Number of partitions.
        round: Number of the round.
        keep_labels: Also write the labels that training used, which an attacker is then granted.
        keep_pictures: Also write the pictures that training used.
        declared: Facts that you declare, such as `normalisation={"mean": [0.5], "std": [0.5]}`.

    Returns:
        The recorded update.

    Raises:
        UsageError: Flower is not installed, the app answers with an error, or its answer cannot be recorded. An
            exception of the app's own code is raised as it is.
    """
    fl = flower()
    recorder = Recorder.into(folder, keep_labels=keep_labels, keep_pictures=keep_pictures, **declared)
    is_legacy = getattr(app, "_call", None) is not None  # a `client_fn`, which has no other mark
    arrays = [fl.Array(tensor.detach().cpu().numpy()) for tensor in weights.values()]
    names = [str(number) for number in range(len(arrays))] if is_legacy else list(weights)
    keys = ("fitins.parameters", "fitins.config") if is_legacy else ("arrays", "config")
    settings = dict(config or {}) | ({} if is_legacy else {"server-round": round})
    content = fl.RecordDict(
        {keys[0]: fl.ArrayRecord(dict(zip(names, arrays, strict=True))), keys[1]: fl.ConfigRecord(settings)}
    )
    message = fl.Message(content=content, metadata=_metadata(fl, round))
    context = fl.Context(
        run_id=1,
        node_id=1,
        node_config={"partition-id": partition, "num-partitions": partitions},
        state=fl.RecordDict(),
        run_config=dict(run_config or {}),
    )
    reply, record = trained(recorder, message, context, app)
    if reply.has_error():
        raise UsageError(f"drive: the app answered with an error: {shown(str(reply.error.reason), 300)}; correct it")
    return record()


def _metadata(fl: Any, round: int) -> Any:
    """Return the metadata of a message that asks for training; outside a run Flower makes none itself."""
    everything = {
        **dict.fromkeys(("run_id", "src_node_id", "dst_node_id", "src_task_id", "dst_task_id"), 1),
        "message_id": "1",
        "reply_to_message_id": "",
        "group_id": str(round),
        "message_type": "train",
        "created_at": time.time(),
        "ttl": 3600.0,
    }
    known = inspect.signature(fl.Metadata.__init__).parameters  # versions differ in what they have
    return fl.Metadata(**{name: value for name, value in everything.items() if name in known})
