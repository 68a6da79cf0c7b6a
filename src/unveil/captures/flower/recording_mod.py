"""A mod of Flower that records what a client sends, as it is at the mod's place in the list of mods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unveil.captures.facts import Fact
from unveil.captures.flower.applied import announced
from unveil.captures.flower.records import (
    arrays_to_record,
    client_of,
    examples_of,
    flower,
    is_training,
    round_of,
    version,
)
from unveil.captures.observed_facts import observed_fact
from unveil.captures.recorder import Recorder

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict


@dataclass(frozen=True, kw_only=True)
class RecordingMod:
    """Records updates; see `recording_mod`."""

    recorder: Recorder

    def __call__(self, message: Message, context: Context, call_next: Callable[..., Any]) -> Message:
        """Hand the message on, and record the reply to one that asks for training."""
        if not is_training(message):
            return call_next(message, context)
        key, before = arrays_to_record(message.content)  # now: the client's code may empty the record
        number = round_of(message)
        with self.recorder.observer() as observer, announced() as obfuscations:
            reply = call_next(message, context)
        sent = {} if reply.has_error() or not before else arrays_to_record(reply.content, key)[1]
        if sent:
            spec = observed_fact("obfuscation", "+".join(obfuscations) or None)
            facts = {**facts_of_reply(reply.content), "obfuscation": spec}
            self.recorder.write(
                client=client_of(context), round=number, before=before, sent=sent, facts=facts, observer=observer
            )
        return reply


def recording_mod(
    folder: str | Path, *, keep_labels: bool = False, keep_pictures: bool = False, **declared: Any
) -> RecordingMod:
    """Return a mod that records what a client sends, one file for each round and client.

    First in the list of mods it sees what leaves the client, last what the client's own code returned, before other
    mods. It observes the training through hooks of torch, so that the manifest says what was done; see
    docs/recording.md.

    Args:
        folder: The folder of the recorded updates.
        keep_labels: Also write the labels that training used, which an attacker is then granted.
        keep_pictures: Also write the pictures that training used, as `unveil audit --truth` reads them.
        declared: Facts that you declare, such as `normalisation={"mean": [0.5], "std": [0.5]}`; docs/format.md has all.

    Raises:
        UsageError: Flower is not installed, or there is no such fact.
    """
    flower()
    return RecordingMod(
        recorder=Recorder.into(folder, keep_labels=keep_labels, keep_pictures=keep_pictures, **declared)
    )


def facts_of_reply(content: RecordDict) -> dict[str, Fact[Any]]:
    """Return what a client's reply says beside its arrays, and which software it was recorded from."""
    examples = examples_of(content)
    return {
        "framework": observed_fact("framework", "flower"),
        "framework_version": observed_fact("framework_version", version()),
        **({} if examples is None else {"examples": Fact(value=examples, source="declared")}),
    }
