"""A classifier says what is on a picture: any callable with one name a class."""

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
CHUNK = 16  # pictures that a network sees at once


@dataclass(frozen=True)
class Seen:
    """What a classifier makes of pictures.

    Args:
        probabilities: One row a picture, one column a class; rows sum to 1.
        features: One row a picture, what the last layer sees; None where the classifier does not show it.
    """

    probabilities: Float[Tensor, "n k"]
    features: Float[Tensor, "n f"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """Names for what is on a picture.

    Args:
        name: Its name in results.
        names: One name a class.
        look: (images in [0, 1]) -> what it sees; it scales and normalises by itself.
        least: Pixels a side below which its answer means nothing.
        most: Pixels a side above which it means nothing either.
    """

    name: str
    names: tuple[str, ...]
    look: Callable[[Images], Seen]
    least: int = 64
    most: int = 4096

    def __call__(self, images: Images) -> Seen:
        """What is on the pictures.

        Raises:
            UsageError: Pictures of a size for which the classifier means nothing, or an answer that is none.
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
        """One clear sentence where a classifier of the user's own answers something else than probabilities."""
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
    network: Callable[[Tensor], Tensor],
    *,
    name: str,
    names: tuple[str, ...],
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    head: Callable[[Tensor], Tensor] | None = None,
    least: int = 64,
    most: int = 4096,
) -> Classifier:
    """A classifier from a network that gives scores before the softmax.

    Args:
        network: (normalised images) -> scores, or what its last layer sees where that layer is given.
        name: Its name in results.
        names: One name a class.
        size: Pixels a side that the network was trained with; pictures are resized to it.
        mean: Of each colour channel of the pictures that it was trained with, in [0, 1].
        std: Their standard deviation; `(x - mean) / std` goes in.
        head: The network's last layer; None where the network holds it, whose features are then not to be seen.
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
    """Float32 on the CPU, where the network is, in three channels."""
    return images.detach().cpu().float().expand(-1, 3, -1, -1)
