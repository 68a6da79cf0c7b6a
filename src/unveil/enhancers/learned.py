"""Learned enhancers: those that come with unveil, by name, and others, by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.reconstruction import Reconstruction
from unveil.core.types import Images
from unveil.enhancers.conditioning import hints_of
from unveil.enhancers.generator import ClassConditionalGenerator
from unveil.enhancers.research import CHECKSUMS
from unveil.enhancers.restorer import Restorer
from unveil.enhancers.weights import Network, load_weights

SHIPPED = Path(__file__).with_name("shipped")
CHUNK = 32  # pictures in one run of the network


@dataclass(frozen=True)
class Learned:
    """A learned enhancer: a restorer, or a generator that also uses the classes.

    Args:
        name: The enhancer's name in results.
        path: The file of its weights, which is read on first use.
    """

    name: str
    path: Path

    @property
    def is_faithful(self) -> bool:
        """See `Enhancer`: True for a restorer, False for a generator."""
        return isinstance(_loaded(self.path).network, Restorer)

    @property
    def uses_labels(self) -> bool:
        """See `Enhancer`."""
        return not self.is_faithful

    @property
    def assumptions(self) -> tuple[str, ...]:
        """See `Enhancer`."""
        prior = f"The attacker has a learned prior ({self}), trained on {self.card.get('data', 'pictures unknown')}."
        return (prior, "The attacker knows the names of the classes.") if self.uses_labels else (prior,)

    def checked(self) -> Learned:
        """Read the weights now and return the enhancer; raise a `UsageError` if they cannot be read."""
        _loaded(self.path)
        return self

    @property
    def seen(self) -> UInt8[Tensor, "pictures bytes"]:
        """Fingerprints of the pictures that it was trained on."""
        return _loaded(self.path).seen

    @property
    def card(self) -> dict[str, Any]:
        """The model card: what the enhancer was trained on, how, its licence and its checksum, as plain JSON."""
        return _loaded(self.path).card

    def __call__(self, guess: Reconstruction, *, class_names: Sequence[str] = ()) -> Reconstruction:
        """See `Enhancer`."""
        network, hints = _loaded(self.path).network, hints_of(guess.evidence, len(guess.images))
        if isinstance(network, Restorer):
            return replace(guess, images=restored(network, guess.images, hints)[0])
        classes = classes_of(network, guess.labels, class_names)
        note = _said(self.name, classes)
        return replace(guess, images=drawn(network, guess.images, hints, classes), notes=(*guess.notes, note))

    def restored(self, images: Images, hints: Float[Tensor, "n hints"]) -> tuple[Images, Float[Tensor, "n 1 h w"]]:
        """Restore pictures.

        Args:
            images: Pictures in [0, 1].
            hints: What is known of each picture; see `hints_of`.

        Returns:
            Restored pictures in [0, 1], and the expected root mean squared error of each pixel over its colours.

        Raises:
            UsageError: The enhancer is a generator, or its file is missing or damaged.
        """
        network = _loaded(self.path).network
        if not isinstance(network, Restorer):
            raise UsageError(f"enhancer {self}: it draws pictures and restores none; use a restorer, such as faithful")
        return restored(network, images, hints)

    def __str__(self) -> str:
        # The checksum, because two files may have the same name.
        own = self.path.parent == SHIPPED or self.card["checksum"] == CHECKSUMS.get(self.name)
        return self.name if own else f"{self.name}@{self.card['checksum']}"


def restored(
    network: Restorer, images: Images, hints: Float[Tensor, "n hints"]
) -> tuple[Images, Float[Tensor, "n 1 h w"]]:
    """Return restored pictures in [0, 1] and each pixel's expected error (root mean square), on the same device."""
    network.to(images.device)
    parts = zip(torch.split(_coloured(images), CHUNK), torch.split(hints.to(images.device), CHUNK), strict=True)
    with torch.no_grad():
        found = [network(some, hint) for some, hint in parts]
    pictures = torch.cat([picture for picture, _ in found]).clamp(0, 1)
    return _as_given(pictures, images), torch.cat([expected for _, expected in found])


def drawn(
    network: ClassConditionalGenerator, images: Images, hints: Float[Tensor, "n hints"], classes: Int[Tensor, " n"]
) -> Images:
    """Return pictures in [0, 1] that a generator draws from rough pictures, hints and classes; class 0 is unknown."""
    network.to(images.device)
    given = (_coloured(images), hints.to(images.device), classes.to(images.device))
    with torch.no_grad():
        found = [network(*part) for part in zip(*(torch.split(t, CHUNK) for t in given), strict=True)]
    return _as_given(torch.cat(found).clamp(0, 1), images)


def classes_of(
    network: ClassConditionalGenerator, labels: Int[Tensor, " n"], class_names: Sequence[str]
) -> Int[Tensor, " n"]:
    """Return the generator's class of each label, matched by the class's name; 0 if the generator does not have it.

    Args:
        network: The generator; its class i + 1 has the name `network.names[i]`.
        labels: Class indices as the client counts them.
        class_names: The client's names of the classes.
    """
    places = {_bare(name): place for place, name in enumerate(network.names, 1)}
    names = [class_names[label] if 0 <= label < len(class_names) else "" for label in labels.tolist()]
    return torch.tensor([places.get(_bare(name), 0) for name in names])


def _said(name: str, classes: Int[Tensor, " n"]) -> str:
    """Return a sentence for readers of a generator's pictures; it says for how many of them the class was known."""
    known = int((classes > 0).sum())
    return (
        f"The enhancer {name} draws pictures from rough ones and their classes; it knew the class of {known} of "
        f"{len(classes)}. What it adds is invented: count only what exceeds the pictures drawn from the label alone."
    )


def _bare(name: str) -> str:
    """Return a class name in lower case, without underscores, hyphens and WordNet's number."""
    words = name.lower().replace("_", " ").replace("-", " ").split()
    if words and words[0][:1] == "n" and words[0][1:].isdigit():
        words = words[1:]
    return " ".join(words)


def _coloured(images: Float[Tensor, "n _ h w"]) -> Float[Tensor, "n 3 h w"]:
    """Return the pictures in float32 with three channels; raise a `UsageError` unless they have 1 or 3."""
    if images.shape[1] not in (1, 3):
        raise UsageError(f"enhancer: expected pictures of 1 or 3 channels, got {images.shape[1]}; use --enhancer none")
    return images.detach().float().expand(-1, 3, -1, -1)


def _as_given(pictures: Float[Tensor, "n 3 h w"], images: Float[Tensor, "n _ h w"]) -> Images:
    """Return the pictures in grey if the images have one channel, else as they are."""
    return pictures.mean(1, keepdim=True) if images.shape[1] == 1 else pictures


@dataclass(frozen=True, eq=False)
class _Loaded:
    """What `load_weights` returns."""

    network: Network
    seen: UInt8[Tensor, "pictures bytes"]
    card: dict[str, Any]


@cache
def _loaded(path: Path) -> _Loaded:
    return _Loaded(*load_weights(path))


FAITHFUL = Learned("faithful", SHIPPED / "faithful.safetensors")
"""The enhancer that attacks can use as a prior."""
