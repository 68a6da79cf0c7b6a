"""What an attacker is granted who has the updates of several rounds of one client."""

from __future__ import annotations

from dataclasses import replace

from unveil.clients.client import Client
from unveil.clients.rounds import TrainingOverRounds
from unveil.core.errors import UsageError
from unveil.core.protocols import Knowledge, NeedsClient, Obfuscation, SendsBuffers
from unveil.core.update import Update
from unveil.obfuscations.over_rounds import over_rounds, sent_before
from unveil.obfuscations.roles import Withholding, atoms
from unveil.privacy.mechanisms import mechanisms


def of_all_rounds(received: Update, knowledge: Knowledge, client: Client) -> Knowledge:
    """Return the knowledge with the model's weights before each round, and the obfuscation over all of them.

    The weights are what the server made of what it received.

    Args:
        received: The received update, with that of each round.
        knowledge: What the attacker was granted.
        client: The client, of which the number of rounds, the server's learning rate and whether there is error
            feedback are public.
    """
    if client.rounds == 1:
        return knowledge
    if knowledge.draws is not None:
        raise UsageError(
            "rounds: the network draws by chance in each round, and one seed is not that of all; leave rounds, or "
            "draws known, out"
        )
    moves = [{name: client.server_lr * t for name, t in before.items()} for before in sent_before(received)]
    obfuscation = knowledge.obfuscation
    return replace(
        knowledge,
        training=TrainingOverRounds(training=knowledge.training, moves=moves),
        obfuscation=obfuscation and over_rounds(obfuscation, client.rounds, feedback=client.error_feedback),
    )


def refuse_rounds(client: Client, obfuscation: Obfuscation) -> None:
    """Raise a `UsageError` where several rounds of an obfuscation are not modelled."""
    if client.rounds == 1:
        return
    if any(isinstance(stage, Withholding | NeedsClient) for stage in atoms([obfuscation])):
        raise UsageError(
            f"rounds: {obfuscation} chooses layers or depends on the client, which is not modelled over several "
            "rounds; leave rounds or this obfuscation out"
        )
    if isinstance(client.training, SendsBuffers) and client.training.buffers != "kept":
        raise UsageError(
            f"rounds: {client.training} sends buffers, whose mean over several rounds is not attacked; leave rounds or "
            "buffers out"
        )
    if any(not found.reason for found in mechanisms(client.training, obfuscation, len(client.images))):
        raise UsageError(
            f"rounds: {obfuscation} after {client.training} clips and adds noise, and no guarantee is stated of "
            "several rounds on the same pictures; leave rounds, or clip and noise, out"
        )
