"""How much memory an audit needs, and how much is free, so that one that does not fit is refused at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from unveil.audits.audit import Audit
from unveil.audits.peak import activation_bytes, peak_bytes
from unveil.audits.recorded.audit import RecordedAudit
from unveil.audits.recorded.client import RecordedClient
from unveil.clients.client import Client
from unveil.core.errors import UsageError
from unveil.core.files import amount, shown
from unveil.core.protocols import Attack, Knowledge
from unveil.core.records import UNKNOWN

FEWER = "take fewer pictures with `batch`, smaller ones with `size`, or a machine with more memory"
IF_RECORDED = "take a machine with more memory"
MEMINFO = Path("/proc/meminfo")
GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "anon"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "total_rss"),
)
"""Folder of a container's control group, its file with the limit, and the name of what it uses; version 2, then 1."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """About how much memory the largest trial of an audit takes.

    Args:
        client: Name of its client.
        batch: What its pictures are, in words.
        attack: SPEC of its attack.
        obfuscation: SPEC of its obfuscation, `unknown` if the attacker does not know it.
        fix: What helps where this is too much.
        bytes: Bytes at its peak; see `peak_bytes`.
    """

    client: str
    batch: str
    attack: str
    obfuscation: str
    fix: str
    bytes: int

    @property
    def sentence(self) -> str:
        """The estimate, for whoever starts the audit."""
        return (
            f"Memory: about {amount(self.bytes)} at the peak, beside the program and the network; it is reckoned for "
            f"client {shown(self.client)} with {self.obfuscation} and {self.attack}."
        )


Attacked = tuple[Client | RecordedClient, Knowledge, Attack]
"""A client, what is known of it, with the obfuscation of its update, and an attack."""


def attacked_in(audit: Audit | RecordedAudit) -> Iterator[Attacked]:
    """Return what the trials of an audit attack."""
    if isinstance(audit, RecordedAudit):
        yield from ((client, client.knowledge, attack) for client in audit.clients for attack in audit.attacks)
    else:
        for client, threat_model, obfuscation, attack, _ in audit.trials():
            yield client, replace(threat_model.knowledge(client, obfuscation), obfuscation=obfuscation), attack


def largest_need(trials: Iterable[Attacked]) -> Need:
    """Return about how much memory the largest of some trials takes.

    Args:
        trials: What is attacked, and by what; at least one.

    Raises:
        UsageError: A model's code raised an error.
    """
    activations: dict[str, int] = {}
    found: dict[tuple[str, ...], Need] = {}
    for client, knowledge, attack in trials:
        obfuscation = str(knowledge.obfuscation or UNKNOWN)
        key = (client.name, obfuscation, str(attack), str(knowledge.scale))
        if key in found:
            continue
        if client.name not in activations:
            activations[client.name] = activation_bytes(client.model, knowledge)
        found[key] = Need(
            client=client.name,
            batch=f"{knowledge.num_images} pictures of {' x '.join(map(str, knowledge.image_shape))}",
            attack=str(attack),
            obfuscation=obfuscation,
            fix=IF_RECORDED if isinstance(client, RecordedClient) else FEWER,
            bytes=peak_bytes(
                client.model,
                knowledge,
                attack,
                activations=activations[client.name],
                updates=max(client.rounds, client.cohort) if isinstance(client, Client) else 1,
            ),
        )
    return max(found.values(), key=lambda need: need.bytes)


def refuse_too_large(trials: Iterable[Attacked], device: torch.device, *, at_once: int = 1) -> Need:
    """Return about how much memory the largest of some trials takes.

    Args:
        trials: What is attacked, and by what; at least one.
        device: Where attacks are computed.
        at_once: Number of trials that run at a time.

    Raises:
        UsageError: So many of them need more than what is free.
    """
    need, free = largest_need(trials), free_bytes(device)
    if free is not None and at_once * need.bytes > free:
        each = f", in each of {at_once} workers" if at_once > 1 else ""
        fewer = "run fewer workers, " if at_once > 1 else ""
        raise UsageError(
            f"client {shown(need.client)}: {need.batch} need about {amount(need.bytes)} of memory with "
            f"{need.obfuscation} and {need.attack}{each}, and {amount(free)} are free; {fewer}{need.fix}"
        )
    return need


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process can still take on a device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_free_of_machine(), *(_free_of_group(*group) for group in GROUPS)]
    return min((free for free in found if free is not None), default=None)


def _free_of_machine() -> int | None:
    """What Linux says is available, with the free swap space."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return sum(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _free_of_group(folder: Path, limit: str, used: str) -> int | None:
    """What a control group leaves; its cached files can be dropped and do not count."""
    try:
        most = int((folder / limit).read_text())
        lines = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, most - int(lines[used]))
    except (OSError, KeyError, ValueError):
        return None
