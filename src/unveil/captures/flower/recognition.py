"""Flower's own mods that change updates, understood as unveil's obfuscations with their observation models.

Flower's clipping takes the norm of everything that changed: parameters, BatchNorm's statistics and its counters. So the
parameters arrive shorter than the bound says, and the SPEC has the norm that is left for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unveil.captures.conversion import BUFFERS
from unveil.captures.flower.applied import announce
from unveil.captures.flower.records import arrays_of, configuration, flower, is_training
from unveil.captures.recording import Arrays
from unveil.core.errors import UsageError
from unveil.core.registry import spec_of
from unveil.obfuscations.clip import DPSGD, Clip

if TYPE_CHECKING:
    from flwr.app import Context, Message

BOUND = "clipping_norm"
"""The setting by which Flower's server tells its clients the bound."""


@dataclass(frozen=True, kw_only=True)
class RecognisedMod:
    """Calls one of Flower's own mods and announces what it does; see `recognised`."""

    mod: Any

    def __call__(self, message: Message, context: Context, call_next: Callable[..., Any]) -> Message:
        """Do what the mod does; recorders around it are told which obfuscation that was."""
        if not is_training(message):
            return self.mod(message, context, call_next)
        settings = configuration(message.content)
        key, before = arrays_of(message.content)  # now: the client's code may empty the record
        inner: list[Arrays] = []

        def call(message: Message, context: Context) -> Message:
            reply = call_next(message, context)
            if not reply.has_error():
                inner.append(arrays_of(reply.content, key)[1])
            return reply

        reply = self.mod(message, context, call)
        if inner and not reply.has_error():
            spec = spec_of_mod(self.mod, settings, before=before, after=inner[0])
            announce(spec, "obfuscated", **privacy_of_mod(self.mod, settings))
        return reply


def recognised(mod: Any) -> RecognisedMod:
    """Return one of Flower's own mods so that recorders around it know what it does to an update.

    Args:
        mod: `fixedclipping_mod`, `adaptiveclipping_mod` or a `LocalDpMod`.

    Raises:
        UsageError: Flower is not installed, or it is another mod.
    """
    flower()
    if not (_is_clipping(mod) or _is_local_dp(mod)):
        raise UsageError(
            "recognised: expected one of Flower's fixedclipping_mod, adaptiveclipping_mod and LocalDpMod(...); declare "
            "what other mods do with recording_mod(..., obfuscation=SPEC)"
        )
    return RecognisedMod(mod=mod)


def spec_of_mod(mod: Any, settings: dict[str, Any], *, before: Arrays, after: Arrays) -> str:
    """Return the SPEC of what one of Flower's own mods does to the parameters of an update.

    Args:
        mod: The mod; see `recognised`.
        settings: What the server sent beside the weights, with the bound of the clipping mods.
        before: The weights before local training, by name.
        after: The weights after it, before the mod.

    Raises:
        UsageError: The server did not send the bound.
    """
    if _is_local_dp(mod):
        left = norm_left(float(mod.clipping_norm), before, after)
        sigma = float(mod.sensitivity) * math.sqrt(2 * math.log(1.25 / float(mod.delta))) / float(mod.epsilon)
        return spec_of(DPSGD(clip=left, noise=sigma / left) if sigma else Clip(norm=left))
    if BOUND not in settings:
        raise UsageError(f"recognised: the server did not send {BOUND!r}; wrap its strategy in Flower's own clipping")
    return spec_of(Clip(norm=norm_left(float(settings[BOUND]), before, after)))


def privacy_of_mod(mod: Any, settings: dict[str, Any]) -> dict[str, float]:
    """Return the bound of one of Flower's own mods and what it claims of differential privacy, as facts of a manifest.

    The bound is on everything that is sent. The parameters' own share of it, which the SPEC has, depends on the
    pictures and bounds nothing.
    """
    if not _is_local_dp(mod):
        return {"update_clip": float(settings[BOUND])}
    claims = {"update_clip": mod.clipping_norm, "claimed_epsilon": mod.epsilon, "delta": mod.delta}
    return {name: float(value) for name, value in claims.items()}


def norm_left(bound: float, before: Arrays, after: Arrays) -> float:
    """Return the norm of the parameters' change after Flower's clipping; the bound itself if nothing was clipped."""
    squares = {name: float((after[name].double() - before[name].double()).square().sum()) for name in after}
    own = sum(
        square
        for name, square in squares.items()
        if after[name].is_floating_point() and name.rpartition(".")[2] not in BUFFERS
    )
    total = sum(squares.values())
    return math.sqrt(own) * bound / math.sqrt(total) if total > bound**2 and own else bound


def _is_clipping(mod: Any) -> bool:
    return getattr(mod, "__name__", "") in ("fixedclipping_mod", "adaptiveclipping_mod")


def _is_local_dp(mod: Any) -> bool:
    return type(mod).__name__ == "LocalDpMod"
