"""Files of learned priors' weights in safetensors format: writing them, and reading them with checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor
from torch.nn import Module

from unveil.core.errors import UsageError
from unveil.core.files import MIB, quoted, reason_of, regular, shown, write_whole
from unveil.core.fingerprints import BYTES
from unveil.enhancers.generator import ClassConditionalGenerator
from unveil.enhancers.restorer import Restorer

VERSION = "1"  # of the format
LARGEST = 1024 * MIB  # bytes of a file
TENSORS = 10_000  # tensors in a file, at most
WIDEST, DEEPEST = 1024, 64  # most channels of a network; most scales, and most blocks at each scale
TENSORS_A_BLOCK = 6  # of each block, at each scale down, at the bottom, and at each scale up
NAMES = 1_000_000  # most classes of a generator
SEEN = "seen"  # name of the tensor of the training pictures' fingerprints
Network = Restorer | ClassConditionalGenerator
"""The kinds of networks whose weights a file may hold."""

KINDS: Mapping[str, type[Network]] = {cls.kind: cls for cls in (Restorer, ClassConditionalGenerator)}
AGAIN = "install unveil again, or train it with `unveil fit`"


def save_weights(
    network: Network, path: Path, *, seen: UInt8[Tensor, "pictures bytes"], card: Mapping[str, Any]
) -> str:
    """Write a network as 16-bit floats, whole or not at all, and return its checksum.

    Args:
        network: The trained network.
        path: The file.
        seen: Fingerprints of the training pictures.
        card: The model card, plain JSON.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().half().contiguous() for name, tensor in network.state_dict().items()}
    tensors[SEEN] = seen.contiguous()
    facts = {
        "unveil": VERSION,
        "kind": network.kind,
        "settings": json.dumps(network.settings),
        "checksum": _checksum(tensors),
        "card": json.dumps(card),
    }
    write_whole(path, save(tensors, facts))
    return facts["checksum"]


def load_weights(path: Path) -> tuple[Network, UInt8[Tensor, "pictures bytes"], dict[str, Any]]:
    """Read a network.

    Returns:
        The network in eval mode, the fingerprints of its training pictures, and its card with the checksum.

    Raises:
        UsageError: The file is missing, damaged or of another version, or its tensors do not fit its settings.
    """
    tensors, facts = _read(path)
    if facts.get("unveil") != VERSION or facts.get("kind") not in KINDS:
        version, kind = (shown(facts.get(key, "unknown"), 40) for key in ("unveil", "kind"))
        raise UsageError(
            f"{shown(path)}: weights of version {version}, kind {kind}; this unveil reads version {VERSION} of "
            f"{' or '.join(KINDS)}; {AGAIN}"
        )
    if _checksum(tensors) != facts.get("checksum"):
        raise UsageError(f"{shown(path)}: the checksum of the weights is not the one written beside them; {AGAIN}")
    seen = tensors.pop(SEEN, None)
    if seen is None or seen.dtype != torch.uint8 or seen.ndim != 2 or seen.shape[1] != BYTES:
        raise UsageError(f"{shown(path)}: the fingerprints of its training pictures are missing or damaged; {AGAIN}")
    try:
        settings, card = json.loads(facts["settings"]), json.loads(facts["card"])
        if not isinstance(settings, dict) or not isinstance(card, dict):
            raise ValueError("expected two tables")
        _refuse_giants(settings, len(tensors))
        with torch.device("meta"):  # a network without values, so that a small file cannot make it use much memory
            _compare(KINDS[facts["kind"]](**settings), tensors, path)
        with torch.random.fork_rng(devices=[]):  # building the network draws weights, which are then replaced
            network = KINDS[facts["kind"]](**settings)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{shown(path)}: its settings are not those of a {facts['kind']} ({reason_of(error)}); {AGAIN}"
        ) from None
    own = network.state_dict()
    network.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own})
    return network.eval().requires_grad_(False), seen, {**card, "checksum": facts["checksum"]}


def _read(path: Path) -> tuple[dict[str, Shaped[Tensor, " ..."]], dict[str, str]]:
    """Read the tensors of a safetensors file by name, and its metadata.

    Raises:
        UsageError: The file is missing, too large or damaged, or has too many tensors.
    """
    from safetensors import safe_open

    regular(path, "", fix="name a shipped enhancer or a file of `unveil fit`", most=LARGEST)
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            if len(names) > TENSORS:
                raise ValueError(f"it has {len(names)} tensors, and at most {TENSORS} are read")
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except Exception as error:  # safetensors and torch raise many kinds for a damaged file
        raise UsageError(f"{shown(path)} cannot be read as safetensors ({reason_of(error)}); {AGAIN}") from None


def _refuse_giants(settings: Mapping[str, Any], tensors: int) -> None:
    """Raise a `ValueError` if the settings describe a network that would need too much memory or time.

    Args:
        settings: The network's settings.
        tensors: Number of tensors in the file. A network of more layers than these is not built even without values.
    """
    widths, blocks, names = settings.get("widths", (1,)), settings.get("blocks", 1), settings.get("names", ())
    if not isinstance(widths, list | tuple) or not 0 < len(widths) <= DEEPEST:
        raise ValueError(f"expected 1 to {DEEPEST} widths")
    if not all(type(width) is int and 0 < width <= WIDEST for width in widths):
        raise ValueError(f"expected widths of 1 to {WIDEST}")
    if type(blocks) is not int or not 0 <= blocks <= DEEPEST:
        raise ValueError(f"expected 0 to {DEEPEST} blocks")
    if (needed := TENSORS_A_BLOCK * (2 * len(widths) - 1) * blocks) > tensors:
        raise ValueError(f"{len(widths)} widths and {blocks} blocks need {needed} tensors, and {tensors} are there")
    if not isinstance(names, list | tuple) or len(names) > NAMES or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected at most {NAMES} names")


def _compare(network: Module, tensors: Mapping[str, Shaped[Tensor, " ..."]], path: Path) -> None:
    """Raise a `UsageError` unless the tensors have the network's names and shapes, and hold finite floats.

    Args:
        network: The network; it may be on the meta device.
        tensors: The tensors of the file.
        path: The file, for the message.
    """
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise UsageError(f"{shown(path)}: tensor {name!r} is missing; {AGAIN}")
        given = tensors[name]
        if given.shape != tensor.shape:
            shapes = f"{shown(str(tuple(given.shape)), 60)}, expected {tuple(tensor.shape)}"
            raise UsageError(f"{shown(path)}: tensor {name!r} has shape {shapes}; {AGAIN}")
        if not given.is_floating_point():
            raise UsageError(f"{shown(path)}: tensor {name!r} holds {given.dtype}, expected torch.float16; {AGAIN}")
        if not bool(torch.isfinite(given.float()).all()):
            raise UsageError(f"{shown(path)}: tensor {name!r} holds NaN or infinite values; {AGAIN}")
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        raise UsageError(f"{shown(path)}: tensor {quoted(unknown[0], 60)} belongs to another network; {AGAIN}")


def _checksum(tensors: Mapping[str, Shaped[Tensor, " ..."]]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of all names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
