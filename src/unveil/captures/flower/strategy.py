"""Recording at Flower's server: what it sent to each client, and what came back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from unveil.captures.flower.recording import facts_of_examples
from unveil.captures.flower.records import arrays_of, examples_of, flower, numbered
from unveil.captures.recorder import Recorder, attempting
from unveil.captures.recording import Arrays
from unveil.core.errors import UsageError

Strategy = TypeVar("Strategy")


def recording_strategy(strategy: Strategy, folder: str | Path, **declared: Any) -> Strategy:
    """Return the strategy itself, which from now on also records the update of each client in each round.

    A server sees no training, so the manifest knows what was declared, and on how many examples the client says that
    it trained.

    Args:
        strategy: Any strategy of Flower, with `configure_train` and `aggregate_train`, or of the API before, with
            `configure_fit` and `aggregate_fit`; of several around one another, the outermost.
        folder: The folder of the recorded updates.
        declared: Facts that you declare, such as `learning_rate=0.01, steps=1`; docs/format.md has all.

    Raises:
        UsageError: Flower is not installed, it is no strategy, or there is no such fact.
    """
    flower()
    recorder = Recorder.into(folder, **declared)
    if hasattr(strategy, "configure_train") and hasattr(strategy, "aggregate_train"):
        _watch_messages(strategy, recorder)
    elif hasattr(strategy, "configure_fit") and hasattr(strategy, "aggregate_fit"):
        _watch_legacy(strategy, recorder)
    else:
        raise UsageError("recording_strategy: expected a strategy of Flower; pass the one that your server starts")
    return strategy


def _watch_messages(strategy: Any, recorder: Recorder) -> None:
    """Put the recorder around the two methods that send and receive messages."""
    configure, aggregate = strategy.configure_train, strategy.aggregate_train
    sent: dict[int, tuple[str, Arrays]] = {}

    def configure_train(*args: Any, **kwargs: Any) -> Iterable[Any]:
        messages = list(configure(*args, **kwargs))
        sent.clear()
        copies: dict[int, tuple[str, Arrays]] = {}  # clients may get different weights, and most get the same
        for message in messages:
            with attempting():
                record = id(next(iter(message.content.array_records.values()), None))
                copies[record] = copies.get(record) or arrays_of(message.content)
                sent[message.metadata.dst_node_id] = copies[record]
        return messages

    def aggregate_train(server_round: int, replies: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        received = list(replies)
        for reply in received:
            node = reply.metadata.src_node_id
            if not reply.has_error() and node in sent:
                with attempting():
                    key, before = sent[node]
                    after, facts = arrays_of(reply.content, key)[1], facts_of_examples(examples_of(reply.content))
                    recorder.record(client=f"node-{node}", round=server_round, before=before, sent=after, facts=facts)
        return aggregate(server_round, received, *args, **kwargs)

    strategy.configure_train, strategy.aggregate_train = configure_train, aggregate_train


def _watch_legacy(strategy: Any, recorder: Recorder) -> None:
    """Put the recorder around the two methods that send and receive lists of arrays."""
    from flwr.common import parameters_to_ndarrays

    configure, aggregate = strategy.configure_fit, strategy.aggregate_fit
    sent: dict[str, Arrays] = {}

    def configure_fit(*args: Any, **kwargs: Any) -> Any:
        instructions = configure(*args, **kwargs)
        sent.clear()
        for proxy, instruction in instructions:
            with attempting():
                sent[proxy.cid] = numbered(parameters_to_ndarrays(instruction.parameters))
        return instructions

    def aggregate_fit(server_round: int, results: Any, *args: Any, **kwargs: Any) -> Any:
        for proxy, result in results:
            if proxy.cid in sent:
                with attempting():
                    after, facts = (
                        numbered(parameters_to_ndarrays(result.parameters)),
                        facts_of_examples(result.num_examples),
                    )
                    recorder.record(
                        client=f"node-{proxy.cid}", round=server_round, before=sent[proxy.cid], sent=after, facts=facts
                    )
        return aggregate(server_round, results, *args, **kwargs)

    strategy.configure_fit, strategy.aggregate_fit = configure_fit, aggregate_fit
