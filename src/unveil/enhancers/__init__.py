"""Enhancers: they improve an attack's pictures with what they learned of pictures in general.

To add one, train it with `unveil fit` and give its file, or name a class of your own. `CATALOGUE` lists those that come
with unveil.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unveil.core.errors import UsageError, nearest
from unveil.core.files import is_regular, quoted, shown
from unveil.core.protocols import Enhancer
from unveil.core.registry import build, split
from unveil.core.third_parties import installed
from unveil.enhancers.learned import SHIPPED, Learned
from unveil.enhancers.research import CHECKSUMS, weights_of

NONE = "none"
CATALOGUE: Mapping[str, str] = {
    "faithful": "Restores pictures as near to the truth as it can (PSNR).",
    "sharp": "Restores pictures as people would want to see them (LPIPS).",
    "semantic": "Draws what a picture shows from its class, where pixels are gone: Caltech-101's 99 classes, 128 px.",
    "semantic-tinyimagenet": "The same for ten classes of Tiny ImageNet, 64 px; for research alone, to be added.",
    "semantic-cifar10": "The same for the ten classes of CIFAR-10, 32 px; for research alone, to be added.",
}
"""Name -> what it does. Those to be added are not in this package; see `research`."""


def parse(text: str) -> Enhancer | None:
    """Return the enhancer that a text names; None for `none`.

    Args:
        text: A name in `CATALOGUE`, the path of a file of `unveil fit`, or a SPEC of a class of another package.

    Raises:
        UsageError: The text is none of these, or the file or the class cannot be used.
    """
    if text == NONE:
        return None
    if text in CATALOGUE:
        return _named(text)
    if "/" not in text and not is_regular(Path(text)):
        others = installed("enhancer", CATALOGUE)
        name, _ = split("enhancer", text, others)
        if name in others or ":" in name:
            enhancer: Enhancer = build("enhancer", dict.fromkeys((NONE, *CATALOGUE), Learned), text)
            return enhancer
        raise UsageError(
            f"unknown enhancer {quoted(text, 60)}; {nearest(text[:60], [NONE, *CATALOGUE, *others])}, or give a file "
            "of `unveil fit`"
        )
    return Learned(shown(Path(text).name), Path(text)).checked()


def path_of(name: str) -> Path:
    """Return the file of weights with a name in `CATALOGUE`; raise a `UsageError` if it is to be added and was not."""
    return weights_of(name) if name in CHECKSUMS else SHIPPED / f"{name}.safetensors"


def _named(name: str) -> Learned:
    """Return the enhancer with a name in `CATALOGUE`; raise a `UsageError` if its weights are missing or others."""
    found = Learned(name, path_of(name)).checked()
    if found.card["checksum"] != CHECKSUMS.get(name, found.card["checksum"]):
        raise UsageError(f"{shown(found.path)} holds other weights than {name}; give the file under another name")
    return found
