"""Classifiers for the semantic metrics: a function from pictures to class probabilities, with one name per class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.types import Images

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CHUNK = 16  # pictures in one run of the network


@dataclass(frozen=True)
class Seen:
    """The output of a classifier.

    Args:
        probabilities: One row for each picture, one column for each class; each row has sum 1.
        features: The input of the last layer, one row for each picture; None if the classifier does not give it.
    """

    probabilities: Float[Tensor, "n k"]
    features: Float[Tensor, "n f"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A function that tells the class of a picture, with the names of the classes.

    Args:
        name: The classifier's name in results.
        names: One name for each class.
        look: (images in [0, 1]) -> probabilities and features; it resizes and normalises by itself.
        least: Smallest side of a picture, in pixels, for which the output is meaningful.
        most: Largest side of a picture, in pixels, for which it is.
    """

    name: str
    names: tuple[str, ...]
    look: Callable[[Images], Seen]
    least: int = 64
    most: int = 4096

    def __call__(self, images: Images) -> Seen:
        """Classify pictures.

        Args:
            images: Pictures in [0, 1], with one channel or three.

        Returns:
            Probabilities and features in float64, on the CPU.

        Raises:
            UsageError: The pictures are smaller than `least` or larger than `most`, or the output is no probabilities.
        """
        small, large = min(images.shape[2:]), max(images.shape[2:])
        if small < self.least or large > self.most:
            raise UsageError(
                f"classifier {self.name}: means something for pictures of {self.least} to {self.most} pixels a side, "
                f"got {images.shape[2]} x {images.shape[3]}; leave it out, or take a classifier for this size"
            )
        with torch.no_grad():
            parts = [self.look(_coloured(part)) for part in torch.split(images, CHUNK)]
        for part, given in zip(parts, torch.split(images, CHUNK), strict=True):
            self._check(part, len(given))
        features = [part.features for part in parts if part.features is not None]
        return Seen(
            torch.cat([part.probabilities for part in parts]).double().cpu(),
            torch.cat(features).double().cpu() if features else None,
        )

    def _check(self, seen: Seen, images: int) -> None:
        """Raise a `UsageError` unless the output is `images` rows of probabilities, one column for each name."""
        p, wanted = seen.probabilities, (images, len(self.names))
        if tuple(p.shape) != wanted:
            raise UsageError(
                f"classifier {self.name}: expected probabilities of shape {wanted} (pictures x names), "
                f"got {tuple(p.shape)}; give one name a class and one row a picture"
            )
        if not bool(torch.isfinite(p).all()) or float(p.min()) < 0 or float((p.sum(1) - 1).abs().max()) > 1e-3:
            raise UsageError(
                f"classifier {self.name}: expected probabilities, each row at least 0 with sum 1, got something else; "
                "put a softmax behind its scores"
            )


def from_network(
    network: Callable[[Images], Float[Tensor, "n _"]],
    *,
    name: str,
    names: tuple[str, ...],
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    head: Callable[[Float[Tensor, "n f"]], Float[Tensor, "n k"]] | None = None,
    least: int = 64,
    most: int = 4096,
) -> Classifier:
    """Make a classifier from a network that gives scores before the softmax.

    Args:
        network: (normalised images) -> scores; with a `head`, (normalised images) -> features.
        name: The classifier's name in results.
        names: One name for each class.
        size: Height and width in pixels of the network's training pictures; pictures are resized to it.
        mean: Mean of each colour channel of the training pictures, in [0, 1].
        std: Standard deviation of each colour channel; the network gets `(x - mean) / std`.
        head: (features) -> scores, the network's last layer; None if `network` includes it, and no features are given.
        least: See `Classifier`.
        most: See `Classifier`.
    """

    def look(images: Images) -> Seen:
        x = images
        if tuple(x.shape[2:]) != (size, size):
            x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        x = (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]
        found = network(x)
        return Seen(found.softmax(1)) if head is None else Seen(head(found).softmax(1), found)

    return Classifier(name=name, names=names, look=look, least=least, most=most)


def _coloured(images: Float[Tensor, "n _ h w"]) -> Float[Tensor, "n 3 h w"]:
    """Return the pictures as float32 on the CPU, where the network is, with three channels."""
    return images.detach().cpu().float().expand(-1, 3, -1, -1)
