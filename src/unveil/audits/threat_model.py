"""The threat model: which facts about the client the attacker is granted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unveil.clients.client import Client
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError, nearest
from unveil.core.protocols import HasOrder, Knowledge, LocalTraining, Obfuscation

PARTS = ("obfuscation", "labels", "training", "order")
"""Facts that can be withheld: the obfuscation, the labels, learning rate and local steps, the order of mini-batches."""

RENAMED = {"channel": "obfuscation"}
"""A part's name in audit files of old versions -> its name now."""

KNOWN, NOTHING = "everything known", "everything unknown"
DRAWS = "draws known"
AND = " and "


@dataclass(frozen=True)
class ThreatModel:
    """Which facts the attacker is granted beside the model and the update.

    Args:
        unknown: The withheld facts, a subset of `PARTS` in its order.
        draws: Whether the random draws of the client's network (dropout masks) are granted. Nobody outside the client
            has them, so "everything known" does not include them.
    """

    unknown: tuple[str, ...] = ()
    draws: bool = False

    @classmethod
    def parse(cls, text: str) -> ThreatModel:
        """Read words such as `everything known`, `labels unknown`, `obfuscation+labels unknown and draws known`.

        Raises:
            UsageError: The words name no threat model.
        """
        words = " ".join(text.split())
        if words == DRAWS:
            return cls(draws=True)
        if words.endswith(AND + DRAWS):
            return replace(cls.parse(words.removesuffix(AND + DRAWS)), draws=True)
        if words == KNOWN:
            return cls()
        if words == NOTHING:
            return cls(PARTS)
        named, _, last = words.rpartition(" ")
        if last != "unknown" or not named:
            known = [KNOWN, DRAWS, *(f"{part} unknown" for part in PARTS)]
            raise UsageError(f"threat model {text!r}: {nearest(words, known)}")
        parts = [part.strip() for part in named.split("+")]
        for part in parts:
            if part in RENAMED:
                raise UsageError(f"threat model {text!r}: {part!r} is now called {RENAMED[part]!r}; write that")
            if part not in PARTS:
                raise UsageError(f"threat model {text!r}: {part!r} cannot be withheld; {nearest(part, list(PARTS))}")
        return cls(tuple(part for part in PARTS if part in parts))

    def __str__(self) -> str:
        if not self.unknown:
            return DRAWS if self.draws else KNOWN
        words = NOTHING if self.unknown == PARTS else f"{'+'.join(self.unknown)} unknown"
        return words + AND + DRAWS if self.draws else words

    def knowledge(self, client: Client, obfuscation: Obfuscation, *, draws: int = 0) -> Knowledge:
        """The facts that this attacker is granted about a client and an obfuscation.

        Args:
            client: The client.
            obfuscation: The obfuscation of the update.
            draws: Seed of the random draws of the client's network; withheld unless `self.draws`.
        """
        granted = client.knowledge(None if "obfuscation" in self.unknown else obfuscation)
        if self.draws:
            if client.cohort > 1 and client.stochastic:
                raise UsageError(
                    f"audit: {self}: the networks of a cohort's clients each draw by chance, and one seed is not that "
                    f"of all; leave {DRAWS!r} or cohort out"
                )
            granted = replace(granted, draws=draws)
        if "labels" in self.unknown:
            granted = replace(granted, labels=None)
        if "training" in self.unknown:
            # The attacker assumes one gradient: an update of a few small steps is nearly a multiple of it.
            # Whether there are buffers is seen in the update.
            assumed = FedSGD(mode=client.training.mode, buffers=granted.buffers)
            return replace(granted, training=assumed, scale=False)
        if "order" in self.unknown:
            granted = replace(granted, training=reordered(client.training, len(client.batch)) or client.training)
        return granted

    def is_another(self, client: Client) -> bool:
        """Whether this threat model changes anything for the client; an order does only with several mini-batches."""
        if self.draws and client.stochastic:
            return True
        if self.draws and not self.unknown:
            return False
        return self.unknown != ("order",) or reordered(client.training, len(client.batch)) is not None


def reordered(training: LocalTraining, pictures: int) -> LocalTraining | None:
    """The same local training with other mini-batches than the client's; None where every step takes all pictures."""
    return training.reordered(pictures) if isinstance(training, HasOrder) else None
