"""The top of the walk in train mode: from pooled features to the input of the last convolution.

The slopes at the output of the last convolution, a row for each place p of image b, are

    D_bp = s g_b v_bp - s (dbeta + z_bp dgamma) / N        s = gamma / sigma

with the slopes g_b of the pooled features, gates v of 0 and 1, and the normalised output z. So each row ``s g_b v_bp``
lies in the space of known vectors of `unmixing.py`, moved by ``s dbeta / N``, and the gates are its binary points.

For their order the patches' mean is taken from their zeros: padding, and gates of the layer before that are closed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.separation.frozen.coupling import Coupling
from unveil.attacks.separation.frozen.difference_map import find_binary
from unveil.attacks.separation.frozen.unmixing import Mixture, are_determined, map_of_patches
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.ordering import ordered
from unveil.attacks.separation.peeling.top import (
    LastConvolution,
    require_all,
    require_channels,
    require_overlap,
)
from unveil.attacks.separation.peeling.watch import Map

TRIES, MOVES = 200, 3000  # points that search for the gates of one image at a time, and moves of each
FITS = 1e-4  # distance of a pattern of gates from the space, relative to its length, up to which it is taken for exact


def last_normalised_map(
    last: LastConvolution,
    gradient: Float[Tensor, "out in height width"],
    slopes: Float[Tensor, "n features"],
    coupling: Coupling,
    *,
    generator: Generator,
) -> tuple[Map, Map]:
    """Return the input of the last convolution for every image, and the slopes at its output as eval mode has them.

    Args:
        last: The convolution.
        gradient: The received gradient of its weight, float64.
        slopes: Slopes of the loss at the pooled features, one row for each image.
        coupling: How the slopes at its output depend on the output.
        generator: Randomness of the search for gates.

    Raises:
        CannotPeelError: The gates of some places were not found, or cannot be.
    """
    layer = last.layer
    channels, height, width = layer.output_shape
    places, n = height * width, len(slopes)
    require_channels(layer, slopes)
    require_overlap(layer)
    if not are_determined(layer, n):
        raise CannotPeelError(
            f"The last map has {n * places:,} places in the batch, more than half of its {channels:,} channels: in "
            "train mode its gates are not determined."
        )
    opened = slopes * last.slope
    mixture = Mixture.of(layer, gradient, coupling, n * places)
    gates = []
    for row in opened:
        usable = row.abs().clamp_min(1e-6 * float(row.abs().max())) * torch.where(row < 0, -1.0, 1.0)
        found = find_binary(
            mixture.basis / usable[:, None],
            coupling.shift / usable,
            usable.abs().sqrt(),
            count=places,
            tries=TRIES,
            moves=MOVES,
            fits=FITS,
            generator=generator,
        )
        gates.append(found)
        require_all(gates, places)
    patches = mixture.patches(torch.cat([found * row for found, row in zip(gates, opened, strict=True)]))
    # Every entry of a patch is zero somewhere in the batch: in the padding, or behind a closed gate.
    apart = (patches - patches.amin(0)).reshape(n, places, *gradient.shape[1:])
    orders = [ordered(one, height, width, stride=layer.stride[0]) for one in apart]
    sorted_patches = torch.cat([one[order] for one, order in zip(patches.reshape(n, places, -1), orders, strict=True)])
    slopes_at = [
        (found[order] * row).T.reshape(channels, height, width)
        for found, order, row in zip(gates, orders, opened, strict=True)
    ]
    return map_of_patches(layer, sorted_patches, n), torch.stack(slopes_at)
