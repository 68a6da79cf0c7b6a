"""The threat model: which facts about the client the attacker is granted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unveil.clients.client import Client
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError, nearest
from unveil.core.protocols import HasOrder, Knowledge, LocalTraining, Obfuscation

PARTS = ("obfuscation", "labels", "training", "order")
"""What can be withheld: the obfuscation; the labels; learning rate and steps; the order of the mini-batches."""

RENAMED = {"channel": "obfuscation"}
"""A part's name in audit files of old versions -> its name now."""

KNOWN, NOTHING = "everything known", "everything unknown"
DRAWS = "draws known"
AND = " and "


@dataclass(frozen=True)
class ThreatModel:
    """An attacker who knows the model, the update and all but some parts of the rest.

    Args:
        unknown: What is withheld, of `PARTS`, in that order.
        draws: Whether what the client's network drew by chance (dropout masks) is granted; nobody outside the client
            has it, so that "everything known" does not include it.
    """

    unknown: tuple[str, ...] = ()
    draws: bool = False

    @classmethod
    def parse(cls, text: str) -> ThreatModel:
        """From words such as `everything known`, `labels unknown`, `obfuscation+labels unknown and draws known`.

        Raises:
            UsageError: Other words.
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
            draws: Seed of what the client's network drew by chance; withheld unless `self.draws`.
        """
        granted = client.knowledge(None if "obfuscation" in self.unknown else obfuscation)
        if self.draws:
            granted = replace(granted, draws=draws)
        if "labels" in self.unknown:
            granted = replace(granted, labels=None)
        if "training" in self.unknown:
            # One gradient is the natural guess: an update of few small steps is nearly a multiple of it.
            return replace(granted, training=FedSGD(mode=client.training.mode), scale=False)
        if "order" in self.unknown:
            granted = replace(granted, training=reordered(client.training, len(client.batch)) or client.training)
        return granted

    def is_another(self, client: Client) -> bool:
        """Whether withholding changes anything for this client: an order does only where a step has fewer pictures."""
        if self.draws and client.stochastic:
            return True
        if self.draws and not self.unknown:
            return False
        return self.unknown != ("order",) or reordered(client.training, len(client.batch)) is not None


def reordered(training: LocalTraining, pictures: int) -> LocalTraining | None:
    """The same local training with mini-batches that are not the client's; None where a step has all pictures."""
    return training.reordered(pictures) if isinstance(training, HasOrder) else None
