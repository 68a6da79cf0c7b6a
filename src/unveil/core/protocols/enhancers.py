"""What improves an attack's pictures without the update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from unveil.core.reconstruction import Reconstruction


@runtime_checkable
class Enhancer(Protocol):
    """Improves an attack's pictures with what it knows of pictures in general, without the update."""

    @property
    def is_faithful(self) -> bool:
        """Whether it claims to restore pictures; its pictures are then not allowed to raise the misfit."""
        ...

    @property
    def uses_labels(self) -> bool:
        """Whether it uses the labels; reports then also show what it draws from the labels alone."""
        ...

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What an attacker who has it is assumed to know, a sentence each; printed with every result."""
        ...

    def __call__(self, guess: Reconstruction, *, class_names: Sequence[str] = ()) -> Reconstruction:
        """Return the same reconstruction with other pictures.

        Args:
            guess: An attack's reconstruction.
            class_names: Name of each class, by the class index; empty if the names are not known.
        """
        ...


@runtime_checkable
class TrainedOnPictures(Protocol):
    """An enhancer that was trained on pictures; an audit of one of these pictures is refused."""

    @property
    def seen(self) -> UInt8[Tensor, "pictures bytes"]:
        """Fingerprints of its training pictures, computed by `core.fingerprints.fingerprints`."""
        ...
