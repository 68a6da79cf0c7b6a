"""What an attacker is granted of a cohort whose clients obfuscate their own updates before the mean."""

from __future__ import annotations

from dataclasses import replace

from unveil.audits.withheld import without_withheld
from unveil.clients.client import Client
from unveil.clients.cohort import parts_of
from unveil.core.errors import UsageError
from unveil.core.protocols import Knowledge, NeedsClient, Obfuscation
from unveil.core.update import Update
from unveil.obfuscations.mean_of_each import has_known_mean, mean_of_each
from unveil.obfuscations.pipeline import joined
from unveil.obfuscations.roles import Withholding, atoms


def of_each_client(
    received: Update, arrived: Update, knowledge: Knowledge, client: Client, obfuscation: Obfuscation
) -> tuple[Update, Knowledge]:
    """Take the messages of the clients out of an update, and put what is known of their mean into the knowledge.

    Args:
        received: The received update, with what each client sent.
        arrived: The same without layers that were kept back; see `without_withheld`.
        knowledge: What the attacker was granted, with the obfuscation of the layers that arrived.
        client: The cohort.
        obfuscation: The obfuscation of each client, whether the attacker knows it or not.

    Returns:
        The mean alone, and the knowledge of its obfuscation; both as they were where the mean was obfuscated.
    """
    if not received.messages:
        return arrived, knowledge
    known = knowledge.obfuscation
    if known is not None and known.family != "none":
        messages = [without_withheld(message, knowledge, obfuscation)[0] for message in received.messages]
        sizes = [len(part) for part in parts_of(client.batch, client.cohort)]
        known = mean_of_each(known, messages, [size / sum(sizes) for size in sizes])
    return replace(arrived, messages=()), replace(knowledge, obfuscation=known)


def refuse_each(client: Client, obfuscation: Obfuscation) -> None:
    """Raise a `UsageError` where the mean of clients that obfuscate their own updates is not modelled."""
    if not client.each_obfuscates:
        return
    if client.rounds > 1:
        raise UsageError(
            'cohort: with cohort_obfuscates = "each", several rounds are not modelled; leave rounds out, or set '
            'cohort_obfuscates = "mean"'
        )
    stages = atoms([obfuscation])
    behind = stages[1:] if stages and isinstance(stages[0], Withholding) else stages
    if any(isinstance(stage, NeedsClient) for stage in behind) or not has_known_mean(joined(behind)):
        raise UsageError(
            f"cohort: it is not known how far off a mean is of updates that each went through {obfuscation}; set "
            'cohort_obfuscates = "mean", or take noise, rounding, top-k or a percentile'
        )
