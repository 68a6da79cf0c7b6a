"""A mod of Flower that obfuscates what a client sends, with any of unveil's obfuscations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from unveil import obfuscations
from unveil.captures.flower.applied import announce
from unveil.captures.flower.records import arrays_of, client_of, flower, is_training, replaced, round_of
from unveil.captures.obfuscating import check_settings, generator_for, obfuscated_weights
from unveil.core.protocols import BufferSetting, Obfuscation

if TYPE_CHECKING:
    from flwr.app import Context, Message


@dataclass(frozen=True, kw_only=True)
class ObfuscationMod:
    """Obfuscates updates; see `obfuscation_mod`."""

    obfuscation: Obfuscation
    seed: int | None = None
    buffers: BufferSetting = "sent"
    order: tuple[str, ...] = ()

    def __call__(self, message: Message, context: Context, call_next: Callable[..., Any]) -> Message:
        """Hand the message on, and obfuscate the reply to one that asks for training."""
        if not is_training(message):
            return call_next(message, context)
        key, before = arrays_of(message.content)  # now: the client's code may empty the record
        number = round_of(message)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        key, after = arrays_of(reply.content, key)
        generator = generator_for(self.seed, client_of(context), number)
        sent = obfuscated_weights(
            before, after, self.obfuscation, buffers=self.buffers, generator=generator, order=self.order
        )
        replaced(reply, key, sent)
        announce(str(self.obfuscation), self.buffers)
        return reply


def obfuscation_mod(
    spec: str, *, seed: int | None = None, buffers: str = "sent", order: Sequence[str] = ()
) -> ObfuscationMod:
    """Return a mod that obfuscates the change of a client's weights, and sends the weights before plus that.

    If anything goes wrong, the client fails: weights that were not obfuscated are never sent instead.

    Args:
        spec: The obfuscation's SPEC, such as `topk:density=0.05+qsgd:levels=16`.
        seed: Seed of its randomness, from which each client and round has its own; None for the system's entropy,
            which is what a federation should use.
        buffers: What becomes of buffers such as BatchNorm's running statistics: `sent` as they are after local
            training, `obfuscated` as an update of their own, or `kept`: the values before it are sent again. Counters
            are never obfuscated.
        order: The names of the network's arrays, `list(Net().state_dict())`, for legacy clients, which number them.

    Raises:
        UsageError: Flower is not installed, there is no such obfuscation or setting, or the obfuscation needs the
            client's network and pictures.
    """
    flower()
    obfuscation = obfuscations.parse(spec)
    check_settings("obfuscation_mod", obfuscation, seed=seed, buffers=buffers)
    return ObfuscationMod(obfuscation=obfuscation, seed=seed, buffers=cast(BufferSetting, buffers), order=tuple(order))
