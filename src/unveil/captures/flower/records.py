"""Reading and writing the arrays of Flower's messages, of message apps and of legacy clients alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from unveil.core.errors import UsageError

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict

OLDEST = "1.28"
"""The oldest version of Flower that works."""


def flower() -> Any:
    """Return the module `flwr.app`.

    Raises:
        UsageError: Flower is not installed, or too old.
    """
    try:
        import flwr.app
    except ImportError:
        raise UsageError(f"Flower {OLDEST} or newer is not installed; pip install 'unveil[flower]'") from None
    return flwr.app


def version() -> str:
    """Return the version of the installed Flower."""
    from importlib.metadata import version as installed

    return installed("flwr")


def is_training(message: Message) -> bool:
    """Return whether a message asks a client to train; its type is `train`, or `train.action`."""
    return str(message.metadata.message_type).partition(".")[0] == "train"


def arrays_of(content: RecordDict, key: str | None = None) -> tuple[str, dict[str, Shaped[Tensor, " ..."]]]:
    """Return the key of the record that holds a network's arrays, and copies of them by name in their order.

    Args:
        content: What a message holds.
        key: The record's key, where there are several; None for the only one, or `arrays`.

    Raises:
        UsageError: There is none, or it cannot be told which one it is.
    """
    records = content.array_records
    only = next(iter(records)) if len(records) == 1 else "arrays"
    found = key if key is not None and key in records else only
    if found not in records:
        raise UsageError(
            f"the message holds {len(records)} records of arrays ({', '.join(records) or 'none'}), and it cannot be "
            "told which one is the network; send the network's as 'arrays'"
        )
    return found, {name: torch.from_numpy(array.numpy().copy()) for name, array in records[found].items()}


def numbered(arrays: Iterable[Any]) -> dict[str, Shaped[Tensor, " ..."]]:
    """Return copies of NumPy arrays under the names that Flower gives to arrays without one: "0", "1", and so on."""
    return {str(number): torch.tensor(array) for number, array in enumerate(arrays)}


def configuration(content: RecordDict) -> dict[str, Any]:
    """Return the settings that the server sent, of all records together."""
    return {name: value for record in content.config_records.values() for name, value in record.items()}


def round_of(message: Message) -> int | None:
    """Return the number of the round; None if nothing says it."""
    said = configuration(message.content).get("server-round", message.metadata.group_id)
    return int(said) if str(said).isdigit() else None


def client_of(context: Context) -> str:
    """Return a name for the client: its partition of the data in a simulation, else its node."""
    partition = context.node_config.get("partition-id")
    return f"node-{context.node_id}" if partition is None else f"partition-{partition}"


def examples_of(content: RecordDict) -> int | None:
    """Return the number of examples that a client says it trained on; None if it does not."""
    for record in content.metric_records.values():
        for name, value in record.items():
            if name.replace("_", "-") == "num-examples" and isinstance(value, int) and value > 0:
                return value
    return None


def replaced(message: Message, key: str, arrays: Mapping[str, Shaped[Tensor, " ..."]]) -> None:
    """Put arrays into a message instead of those of a record."""
    app = flower()
    message.content[key] = app.ArrayRecord({name: app.Array(tensor.numpy()) for name, tensor in arrays.items()})
