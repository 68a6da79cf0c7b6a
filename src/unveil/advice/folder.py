"""The folder of an advice: its finished federations, the audits of their updates, and what was found.

DIR/federations/*.safetensors   a training through one obfuscation with one seed: weights of each phase, and figures
DIR/audits/                     a results folder with all trials, as `unveil audit` writes it
DIR/advice.json                 what was found, as data
DIR/advice.html                 the same as a page
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from jaxtyping import Shaped
from torch import Tensor

from unveil.advice.federation import FederatedRun, Federation, Phase
from unveil.audits.audit import digest_of
from unveil.core.errors import UsageError, writing
from unveil.core.files import MIB, make_folder, shown, write_whole
from unveil.core.inside import read_inside
from unveil.core.reads import shared_read

AUDITS, FEDERATIONS = "audits", "federations"
DATA, PAGE = "advice.json", "advice.html"
LARGEST = 4096 * MIB  # of one federation's weights
FIX = "choose another folder with --out, or delete this one"
FORMER = "plain loop of unveil"
"""The trainer of a training that was kept before trainings said theirs."""

log = logging.getLogger(__name__)


def key_of(federation: Federation, obfuscation: str, seed: int) -> str:
    """Return a hash of everything that a training depends on, 12 hexadecimal digits."""
    start = federation.starts[seed]
    parts = {
        **federation.settings(),
        "train": digest_of([federation.data.train.images, federation.data.train.labels]),
        "tested": digest_of([federation.data.test.images, federation.data.test.labels]),
        "start": digest_of([*start.parameters(), *start.buffers()]),
        "obfuscation": obfuscation,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def keep(folder: Path, key: str, run: FederatedRun) -> None:
    """Write a finished training; raises a `UsageError` if the folder cannot be written."""
    from safetensors.torch import save

    tensors = {f"{phase}/{name}": t.contiguous() for phase, held in run.weights.items() for name, t in held.items()}
    figures = {
        "obfuscation": run.obfuscation,
        "seed": run.seed,
        "accuracy": {str(number): value for number, value in run.accuracy.items()},
        "right": run.right,
        "wire_bits": run.wire_bits,
        "diverged": run.diverged,
        "trainer": run.trainer,
    }
    with writing(folder, "--out"):
        make_folder(folder / FEDERATIONS, private=True)
        content = save(tensors, {"figures": json.dumps(figures)})
        write_whole(folder / FEDERATIONS / f"{key}.safetensors", content, private=True)


@shared_read
def kept(folder: Path, key: str) -> FederatedRun | None:
    """Read a training; None if it is not there or is damaged, and then it is trained again."""
    name = f"{FEDERATIONS}/{key}.safetensors"
    if not (folder / name).is_file():
        return None
    try:
        return _read(read_inside(folder, name, most=LARGEST, fix=FIX))
    except UsageError:
        raise
    except Exception:  # whatever a damaged file raises
        log.warning("%s is damaged; this federation is trained again", shown(folder / name))
        return None


def _read(content: bytes) -> FederatedRun:
    from safetensors.torch import load

    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    figures: dict[str, Any] = json.loads(header["__metadata__"]["figures"])
    weights: dict[Phase, dict[str, Shaped[Tensor, " ..."]]] = {}
    tensors = load(content)
    for phase in get_args(Phase):
        held = {n.partition("/")[2]: t for n, t in tensors.items() if n.startswith(f"{phase}/")}
        if held:
            weights[phase] = held
    return FederatedRun(
        obfuscation=figures["obfuscation"],
        seed=figures["seed"],
        accuracy={int(number): value for number, value in figures["accuracy"].items()},
        right=figures["right"],
        wire_bits=figures["wire_bits"],
        weights=weights,
        diverged=figures["diverged"],
        trainer=figures.get("trainer", FORMER),
    )


def write(folder: Path, data: Mapping[str, Any], page: str) -> Path:
    """Write what was found as data and as a page, and return the page's path."""
    with writing(folder, "--out"):
        make_folder(folder, private=True)
        content = json.dumps(data, indent=2, ensure_ascii=False).encode(errors="backslashreplace")
        write_whole(folder / DATA, content + b"\n", private=True)
        write_whole(folder / PAGE, page.encode(errors="backslashreplace"), private=True)
    return folder / PAGE
