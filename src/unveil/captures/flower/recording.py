"""A mod of Flower that records what a client sends, as it is at the mod's place in the list of mods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unveil.captures.facts import Fact
from unveil.captures.flower.applied import Applied, announced
from unveil.captures.flower.records import arrays_of, client_of, examples_of, flower, is_training, round_of, version
from unveil.captures.observed_facts import observed_fact
from unveil.captures.recorder import Recorder, attempting
from unveil.captures.recording import Arrays

if TYPE_CHECKING:
    from flwr.app import Context, Message

Client = Callable[..., Any]
"""The rest of the client: from a message and a context to a reply."""


@dataclass(frozen=True, kw_only=True)
class RecordingMod:
    """Records updates; see `recording_mod`."""

    recorder: Recorder

    def __call__(self, message: Message, context: Context, call_next: Client) -> Message:
        """Hand the message on, and record the reply to one that asks for training."""
        if not is_training(message):
            return call_next(message, context)
        reply, record = trained(self.recorder, message, context, call_next)
        if not reply.has_error():
            with attempting():
                record()
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


def trained(
    recorder: Recorder, message: Message, context: Context, call_next: Client
) -> tuple[Message, Callable[[], Path]]:
    """Let a client train under observation.

    Returns:
        The client's reply, and a function that records it and returns the file. That raises an error if the update
        cannot be recorded.
    """
    number = round_of(message)
    weights: tuple[str, Arrays] | Exception
    try:
        weights = arrays_of(message.content)  # now: the client's code may empty the record
    except Exception as error:
        weights = error
    with recorder.observer() as observer, announced() as applied:
        reply = call_next(message, context)

    def record() -> Path:
        if isinstance(weights, Exception):
            raise weights
        key, before = weights
        return recorder.record(
            client=client_of(context),
            round=number,
            before=before,
            sent=arrays_of(reply.content, key)[1],
            facts={**facts_of_examples(examples_of(reply.content)), **_facts_of(applied)},
            observer=observer,
        )

    return reply, record


def facts_of_examples(examples: int | None) -> dict[str, Fact[Any]]:
    """Return which software an update was recorded from, and on how many examples the client says it trained."""
    return {
        "framework": observed_fact("framework", "flower"),
        "framework_version": observed_fact("framework_version", version()),
        **({} if examples is None else {"examples": Fact(value=examples, source="declared")}),
    }


def _facts_of(applied: list[Applied]) -> dict[str, Fact[Any]]:
    if not applied:
        return {}
    facts = {"obfuscation": observed_fact("obfuscation", "+".join(found.spec for found in applied))}
    for found in applied:
        facts |= {name: observed_fact(name, value) for name, value in found.facts.items()}
    changed = [found.buffers for found in applied if found.buffers != "sent"]
    return {**facts, "buffers": observed_fact("buffers", changed[-1])} if changed else facts
