"""Patches of a convolution in front of BatchNorm in train mode, in closed form, where there are many more channels.

The slopes D sum, per channel, to zero over the batch's places, so the gradient ``G = D^T P`` of a weight holds the
patches P without their mean: ``P - mean = M R`` with R the right singular vectors of G, of which there are one less
than places. The output without its mean is linear in the same unknown, ``M R W^T``, and D^T has the space of G's left
singular vectors. So the slopes in eval mode,

    S - shift = D + rate * (M R W^T)

lie, place by place, in a space of known vectors, and where they are known least squares gives D, and D the patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from unveil.attacks.separation.frozen.coupling import Coupling
from unveil.attacks.separation.peeling.equations import Kernel
from unveil.attacks.separation.peeling.watch import Convolution, Map
from unveil.core.least_squares import least_squares
from unveil.core.spectra import eigh


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """The known vectors of a convolution's gradient.

    Args:
        gradient: The received gradient of the weight, a row for each row of the weight.
        coupling: How the slopes at the output depend on the output.
        parts: A basis of D, a row per channel of the output.
        outputs: The same for the rate times the output without its mean.
    """

    gradient: Float[Tensor, "out patch"]
    coupling: Coupling
    parts: Float[Tensor, "out rank"]
    outputs: Float[Tensor, "out rank"]

    @classmethod
    def of(cls, layer: Convolution, gradient: Kernel, coupling: Coupling, places: int) -> Mixture:
        """Return the known vectors.

        Args:
            layer: The convolution.
            gradient: The received gradient of its weight, float64.
            coupling: How the slopes at its output depend on the output.
            places: Places of its output in the batch.
        """
        flat = gradient.flatten(1)
        squares, left = eigh(flat @ flat.T)
        left, sizes = left[:, 1 - places :], squares[1 - places :].clamp_min(1e-300).sqrt()
        right = left.T @ flat / sizes[:, None]
        outputs = layer.weight.to(right).flatten(1) @ right.T
        return cls(gradient=flat, coupling=coupling, parts=left * sizes, outputs=coupling.rate[:, None] * outputs)

    @property
    def basis(self) -> Float[Tensor, "out dimensions"]:
        """The vectors in whose span the slopes in eval mode lie, less the coupling's shift."""
        return torch.cat([self.parts, self.outputs], 1)

    def patches(self, evaluated: Float[Tensor, "places out"]) -> Float[Tensor, "places patch"]:
        """Return the patches of the input without their mean.

        Args:
            evaluated: The slopes at the output in eval mode, a row for each place.
        """
        rank = self.parts.shape[1]
        sought = least_squares(self.basis, (evaluated - self.coupling.shift).T)
        slopes = self.parts @ sought[:rank]
        left, sizes, right = torch.linalg.svd(slopes, full_matrices=False)
        kept = [part[..., :rank] for part in (left, sizes, right.T)]
        patches: Tensor = (kept[2] / kept[1]) @ (kept[0].T @ self.gradient)
        return patches


def are_determined(layer: Convolution, images: int) -> bool:
    """Return whether a convolution has enough channels for `Mixture` to give the patches of this many images."""
    channels, height, width = layer.output_shape
    places = images * height * width
    return 2 * places <= channels and places <= layer.weight[0].numel()


def map_of_patches(layer: Convolution, patches: Float[Tensor, "places patch"], images: int) -> Map:
    """Return the input whose patches, less an unknown mean, are given.

    Where patches do not overlap and have no padding their mean is not determined; it is then taken to be zero.

    Args:
        layer: The convolution.
        patches: The patches without their mean, those of the first image first, in the order of the output's places.
        images: Number of images.
    """
    channels, height, width = layer.input_shape
    kernel = layer.weight.shape[2:]
    entries, count = height * width, kernel.numel()
    # Entry of the map that stands at each place and entry of a patch; 0 for padding.
    numbers = torch.arange(1.0, entries + 1, dtype=patches.dtype, device=patches.device).reshape(1, 1, height, width)
    where = F.unfold(F.pad(numbers, layer.zeros), kernel, stride=layer.stride)[0].round().long()
    taken = F.one_hot(where, entries + 1)[..., 1:].to(patches)  # kernel's entries x places x entries
    taken = taken.transpose(0, 1).flatten(0, 1)
    means = -torch.eye(count, dtype=patches.dtype, device=patches.device).repeat(taken.shape[0] // count * images, 1)
    each = torch.eye(images, dtype=patches.dtype, device=patches.device)
    equations = torch.cat([torch.kron(each, taken), means], 1)
    known = patches.reshape(-1, channels, count).transpose(1, 2).flatten(0, 1)
    solved: Tensor = torch.linalg.pinv(equations, rtol=1e-9) @ known
    found = solved[: images * entries].reshape(images, entries, channels)
    return found.transpose(1, 2).reshape(images, *layer.input_shape)
