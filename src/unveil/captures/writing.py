"""Writing recorded updates, which hold private data: only their owner may read them."""

from __future__ import annotations

from pathlib import Path

from unveil.captures.checks import checked
from unveil.captures.manifest import Manifest
from unveil.captures.reading_archives import MANIFEST
from unveil.captures.recording import BEFORE, CLIENT, DELTA, GRADIENT, Arrays
from unveil.core.errors import UsageError, writing
from unveil.core.files import shown, write_whole


def write_recording(
    path: str | Path,
    *,
    manifest: Manifest | None = None,
    before: Arrays | None = None,
    client: Arrays | None = None,
    delta: Arrays | None = None,
    gradient: Arrays | None = None,
) -> None:
    """Write a recorded update as safetensors, whole or not at all; see `Recording` for what the parts are.

    Args:
        path: The file; its name ends in .safetensors.
        manifest: What is known beside the tensors; None for nothing. Without an order, the tensors' own is written.
        before: Weights before local training, by name.
        client: Values after local training.
        delta: Values after local training minus values before it.
        gradient: Gradients of the loss.

    Raises:
        UsageError: The parts do not fit together or hold anything but finite numbers, or the file cannot be written.
    """
    from safetensors.torch import save

    file = Path(path)
    if file.suffix != ".safetensors":
        raise UsageError(f"{shown(file)}: expected a name ending in .safetensors; rename it")
    given = {BEFORE: before, CLIENT: client, DELTA: delta, GRADIENT: gradient}
    try:
        parts, ordered = checked({part: arrays for part, arrays in given.items() if arrays}, manifest or Manifest())
    except ValueError as error:
        raise UsageError(f"{shown(file)} cannot be written: {error}; correct the tensors") from None
    tensors = {f"{part}/{name}": t.contiguous().clone() for part in parts for name, t in parts[part].items()}
    with writing(file.parent, "another path"):
        write_whole(file, save(tensors, {MANIFEST: str(ordered)}), private=True)
