"""How much memory an audit needs at least, and how much is free, so that one that cannot fit is refused at once."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from unveil.audits.audit import Audit
from unveil.clients.client import Client
from unveil.core.errors import UsageError
from unveil.core.files import amount, shown
from unveil.core.network import as_taken, fresh_buffers, in_mode, users_code
from unveil.core.usercode import own_randomness

TRIED = 2  # pictures of which the activations are measured; a layer of BatchNorm may refuse a single one
MEMINFO = Path("/proc/meminfo")
GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "anon"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "total_rss"),
)
"""Folder of a container's control group, its file with the limit, and the name of what it uses; version 2, then 1."""


def refuse_too_large(audit: Audit) -> None:
    """Raise a `UsageError` if a client of an audit needs more memory than is free, by `least_bytes` alone."""
    free = free_bytes(audit.device)
    for client in audit.clients:
        needed = least_bytes(client)
        if free is not None and needed > free:
            n, *shape = client.images.shape
            raise UsageError(
                f"client {shown(client.name)}: {n} pictures of {' x '.join(map(str, shape))} need at least "
                f"{amount(needed)} of memory for one pass through the model, and {amount(free)} are free; take fewer "
                "pictures with `batch`, smaller ones with `size`, or a machine with more memory"
            )


def least_bytes(client: Client) -> int:
    """Return the bytes that each attack on a client needs at least: the activations of the batch, and two updates.

    Attacks differentiate through the model, so that autograd keeps activations of all pictures at once; the received
    update and the gradients that are compared with it have the size of the trained weights. Attacks that also
    differentiate through the gradient need several times as much.

    Args:
        client: The client.

    Raises:
        UsageError: The model's code raised an error.
    """
    update = sum(p.numel() * p.element_size() for p in client.model.parameters() if p.requires_grad)
    tried = client.images[:TRIED]
    model = in_mode(client.model, client.training.mode)
    kept: dict[int, int] = {}

    def note(tensor: Shaped[Tensor, ...]) -> Shaped[Tensor, ...]:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # Not `network.run`, which allows no hooks on saved tensors because a checkpointed layer would use them.
    with users_code("model: its forward"), own_randomness(0), saved_tensors_hooks(note, lambda tensor: tensor):
        output = functional_call(model, fresh_buffers(model), (as_taken(model, tried),))
    for tensor in (*model.parameters(), *model.buffers()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    del output  # until here it holds what autograd keeps, so that no two tensors had the same place
    return 2 * update + sum(kept.values()) * len(client.images) // len(tried)


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
