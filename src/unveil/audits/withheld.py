"""What an attacker is handed of an update of which only some layers were sent."""

from __future__ import annotations

from dataclasses import replace

from unveil.core.protocols import Knowledge, Obfuscation
from unveil.core.update import Update
from unveil.obfuscations.pipeline import joined
from unveil.obfuscations.roles import Withholding, atoms


def without_withheld(received: Update, knowledge: Knowledge, obfuscation: Obfuscation) -> tuple[Update, Knowledge]:
    """Leave the tensors out that the client keeps back, as whoever receives the update sees.

    So no attack takes zeros that nobody sent for values, and the obfuscation of what is left is that of the stages
    behind the choice of layers.

    Args:
        received: The received update, with zeros for what was kept back.
        knowledge: What the attacker was granted.
        obfuscation: The obfuscation, whether the attacker knows it or not.

    Returns:
        The update of the tensors that arrived, and the knowledge with the names of the others; both as they were if the
        obfuscation keeps no layer back.
    """
    stages = atoms([obfuscation])
    if not stages or not isinstance(first := stages[0], Withholding):
        return received, knowledge
    arrived = replace(first.arrived(received), buffers=received.buffers)
    return arrived, replace(
        knowledge,
        obfuscation=None if knowledge.obfuscation is None else joined(stages[1:]),
        withheld=tuple(name for name in received.tensors if name not in arrived.tensors),
    )
