"""Weights learned from pictures for research alone: where they are, if whoever uses unveil chose to have them.

They are not in unveil's package. The folder `research-weights/` of the repository is a package of its own that holds
nothing else; `UNVEIL_WEIGHTS` names folders of such files, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from unveil.core.errors import UsageError
from unveil.core.files import is_regular

VARIABLE = "UNVEIL_WEIGHTS"
PACKAGE = "unveil_research_weights"
CHECKSUMS: Mapping[str, str] = {
    "semantic-tinyimagenet": "34990d2ad19f366c",
    "semantic-cifar10": "22b4b5e4473269de",
}
"""Name -> checksum of the weights that the name stands for in results."""


def weights_of(name: str) -> Path:
    """Return the file of weights with a name of `CHECKSUMS`.

    Raises:
        UsageError: It is not installed; the message says why, and how to get it.
    """
    for folder in _folders():
        if is_regular(path := folder / f"{name}.safetensors"):
            return path
    raise UsageError(
        f"enhancer {name!r} is not part of unveil, because it was trained on pictures for research alone; if you may "
        f"use it, install the folder research-weights of unveil's repository, or name its folder in {VARIABLE}"
    )


def _folders() -> Iterator[Path]:
    """The folders where such files may be."""
    yield from (Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part)
    found = find_spec(PACKAGE)
    yield from (Path(place) for place in (found and found.submodule_search_locations) or ())
