"""Weights of learned priors in safetensors files: written with what they need, refused where something is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from unveil.enhancers.generator import Generator
from unveil.enhancers.restorer import Restorer
from unveil.errors import UsageError
from unveil.fingerprints import BYTES

VERSION = "1"
WIDEST = 1024  # maps of a network, and blocks of it
SEEN = "seen"  # fingerprints of the pictures it was trained on, beside the weights
KINDS: Mapping[str, type[Restorer] | type[Generator]] = {cls.kind: cls for cls in (Restorer, Generator)}
AGAIN = "install unveil again, or train it with `unveil fit`"


def save_weights(network: Restorer | Generator, path: Path, *, seen: Tensor, card: Mapping[str, Any]) -> str:
    """Write a network as 16-bit floats, whole or not at all, and return its checksum.

    Args:
        network: What was trained.
        path: The file.
        seen: Fingerprints of the training pictures.
        card: What a reader should know of it, plain JSON.

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
    part = path.with_suffix(".part")
    part.write_bytes(save(tensors, facts))  # not save_file: its errors are no OSError
    part.replace(path)
    return facts["checksum"]


def load_weights(path: Path) -> tuple[Restorer | Generator, Tensor, dict[str, Any]]:
    """The network in eval mode, the fingerprints of what it was trained on, and its card.

    Raises:
        UsageError: The file is missing, damaged, of another version, or its tensors are not this network's.
    """
    tensors, facts = _read(path)
    if facts.get("unveil") != VERSION or facts.get("kind") not in KINDS:
        raise UsageError(
            f"{path}: weights of version {facts.get('unveil', 'unknown')}, kind {facts.get('kind', 'unknown')}; this "
            f"unveil reads version {VERSION} of {' or '.join(KINDS)}; {AGAIN}"
        )
    if _checksum(tensors) != facts.get("checksum"):
        raise UsageError(f"{path}: the checksum of the weights is not the one written beside them; {AGAIN}")
    seen = tensors.pop(SEEN, None)
    if seen is None or seen.dtype != torch.uint8 or seen.ndim != 2 or seen.shape[1] != BYTES:
        raise UsageError(f"{path}: the fingerprints of its training pictures are missing or damaged; {AGAIN}")
    try:
        settings, card = json.loads(facts["settings"]), json.loads(facts["card"])
        if not isinstance(settings, dict) or not isinstance(card, dict):
            raise ValueError("expected two tables")
        _refuse_giants(settings)
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, only to be replaced
            network = KINDS[facts["kind"]](**settings)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path}: its settings are not those of a {facts['kind']} ({reason}); {AGAIN}") from None
    _fill(network, tensors, path)
    return network.eval().requires_grad_(False), seen, {**card, "checksum": facts["checksum"]}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, dict(file.metadata() or {})
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; name a shipped enhancer or a file of `unveil fit`") from None
    except (SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path} cannot be read as safetensors ({reason}); {AGAIN}") from None


def _refuse_giants(settings: Mapping[str, Any]) -> None:
    """A file must not be able to ask for more memory than a machine has."""
    widths, blocks = settings.get("widths", ()), settings.get("blocks", 1)
    if not all(0 < width <= WIDEST for width in widths) or len(widths) > WIDEST or not 0 <= blocks <= WIDEST:
        raise ValueError(f"widths {widths}, blocks {blocks}")


def _fill(network: Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise UsageError(f"{path}: tensor {name!r} is missing; {AGAIN}")
        if tensors[name].shape != tensor.shape:
            shapes = f"{tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
            raise UsageError(f"{path}: tensor {name!r} has shape {shapes}; {AGAIN}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise UsageError(f"{path}: tensor {name!r} holds NaN or infinite values; {AGAIN}")
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        raise UsageError(f"{path}: tensor {unknown[0]!r} belongs to another network; {AGAIN}")
    network.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own})


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Sixteen characters that change with any number, name or shape."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
