"""Peel a network: from pooled features to the map before pooling, and from there one convolution after the other.

`top.py` gives the input of the last convolution. With the input of a convolution known, its own gates are the ones of
the convolution before, and the input of that follows by linear algebra.

Wherever the network depends on a map alone, the rest of the network is run from the map that was found. The gradients
that this gives are compared with the received ones: a map counts only while they agree.

Reference:
    One layer after the other: Zhu and Blaschko, R-GAP, ICLR 2021. The walk: ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.separation.frozen.coupling import Coupling, solve_coupled
from unveil.attacks.separation.frozen.top import last_normalised_map
from unveil.attacks.separation.frozen.unmixing import Mixture, are_determined, map_of_patches
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.slopes import is_rectified, nearest, open_gates, slope_of
from unveil.attacks.separation.peeling.solving import input_slopes, solve_input
from unveil.attacks.separation.peeling.top import LastConvolution, last_convolution, last_map
from unveil.attacks.separation.peeling.watch import Convolution, Map, convolutions_of, is_cut, watched
from unveil.core.types import Tensors

ROUNDS = 1500  # most steps of conjugate gradients for one map
POLISHED = 20  # times that a map is solved again with the slopes that it gives itself, at most
EXACT = 1e-6  # difference of the gradients at which it is not solved again
ROUNDED = 1e-5  # the same in train mode
SPARE = 1.2  # equations for each unknown in train mode, at least: with fewer the steps hardly converge
AGREE = 1e-2  # difference of received gradients from those that a map gives, relative, up to which the map counts


@dataclass(frozen=True, kw_only=True, eq=False)
class PeeledMap:
    """A map of the network that was found for every image.

    Args:
        before: Name of the weight of the convolution that reads it.
        values: The map, one for each image, float64.
        off: Difference of the received gradients behind it from those that it gives, relative to their length.
        reason: Why the walk ended here.
    """

    before: str
    values: Map
    off: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Peeling:
    """What the walk needs to know.

    Args:
        model: The network in eval mode, in float64; in train mode the one whose statistics are frozen.
        gradients: The received gradient of each parameter, float64.
        labels: The class index of each image.
        images: Some pictures in float64, on which the network is watched; not those of the batch.
        generator: Randomness of the search for gates.
        running: The network with the slopes of the client's mode; None for `model`.
        couplings: Name of a convolution's weight -> how its slopes depend on its output, in train mode.
    """

    model: Module
    gradients: Tensors
    labels: Int[Tensor, " n"]
    images: Float[Tensor, "probes _ _ _"]
    generator: Generator
    running: Module | None = None
    couplings: Mapping[str, Coupling] = field(default_factory=dict)

    def deepest(self, features: Float[Tensor, "n features"], head: Head) -> PeeledMap:
        """Walk from pooled features towards the pictures, and return the deepest map that counts.

        Args:
            features: The pooled features, one row for each image.
            head: The head that reads them.

        Raises:
            CannotPeelError: Not even the input of the last convolution was found.
        """
        layers = [layer for layer in convolutions_of(self.model, self.images) if layer.name in self.gradients]
        if not layers:
            raise CannotPeelError("The network has no convolution whose gradient was sent.")
        last = last_convolution(self.model, self.images, layers, head)
        pulls = head.layers(features, self.labels)[0].pulls
        layer = last.layer
        found, slopes_at = self._top(last, pulls)
        best: PeeledMap | None = None
        while True:
            cut = is_cut(self.model, layer.source, self.images, self.images.flip(0))
            if cut:
                found, back, off = self._polished(layer, found)
                if off > AGREE:
                    return self._ended(best, f"the map before {layer.name} does not explain the update ({off:.1%})")
                best = PeeledMap(before=layer.name, values=found, off=off)
            elif layer.shared:
                return self._ended(best, f"the map before {layer.name} is used by several layers")
            else:
                back = input_slopes(layer, layer.weight.to(found), slopes_at)
            before = self._before(layers, layer.source)
            if before is None:
                return self._ended(best, f"what comes before {layer.name} is no convolution with gates")
            next_layer, slope, is_gated = before
            spare = SPARE if next_layer.name in self.couplings else 1.0
            if next_layer.equations < spare * len(found) * next_layer.places:
                return self._ended(
                    best,
                    f"{next_layer.name} gives {next_layer.equations:,} equations for "
                    f"{len(found) * next_layer.places:,} unknowns",
                )
            slopes_at = back * slope[:, None, None]
            if is_gated:
                slopes_at = slopes_at * ((found > 0) if cut else open_gates(found))
            layer = next_layer
            found, slopes_at = self._solved(layer, slopes_at, None)

    def _top(self, last: LastConvolution, pulls: Float[Tensor, "n features"]) -> tuple[Map, Map]:
        """Return the input of the last convolution, and the slopes at its output."""
        layer, generator = last.layer, self.generator
        gradient, coupling = self.gradients[layer.name], self.couplings.get(layer.name)
        if coupling is None:
            return last_map(last, gradient, pulls, generator=generator)
        found, slopes = last_normalised_map(last, gradient, pulls, coupling, generator=generator)
        return self._solved(layer, slopes, found)

    def _solved(self, layer: Convolution, slopes: Map, start: Map | None) -> tuple[Map, Map]:
        """Return the input of a convolution and the slopes at its output, from those that eval mode would have."""
        gradient, coupling = self.gradients[layer.name], self.couplings.get(layer.name)
        if coupling is None:
            return solve_input(layer, gradient, slopes, rounds=ROUNDS, start=start)[0], slopes
        if start is None and are_determined(layer, len(slopes)):
            rows = slopes.flatten(2).transpose(1, 2).flatten(0, 1)
            patches = Mixture.of(layer, gradient, coupling, len(rows)).patches(rows)
            start = map_of_patches(layer, patches, len(slopes))
        return solve_coupled(layer, gradient, slopes, coupling, start=start)

    def _before(
        self, layers: list[Convolution], source: int
    ) -> tuple[Convolution, Float[Tensor, " channels"], bool] | None:
        """Return the convolution that makes a map, up to gates and sums, its slope, and whether there are gates."""
        for layer in nearest(layers, before=source):
            found = slope_of(self.model, self.images, layer, source, pooled=False)
            if found is not None:
                return layer, *found
        return None

    def _polished(self, layer: Convolution, found: Map) -> tuple[Map, Map, float]:
        """Solve for the input of a convolution again, with the slopes that it gives itself, while that explains more.

        Where the first gates are wrong, those that the network computes from the map are mostly right.

        Returns:
            The map, the slopes of the loss there, and how far the gradients that it gives are off.
        """
        rectified = is_rectified(self.model, self.images, layer.source)
        found = found * open_gates(found) if rectified else found
        back, slopes, off = self._forward(layer, found)
        for _ in range(POLISHED):
            if off <= (ROUNDED if self.couplings else EXACT):
                break
            coupling = self.couplings.get(layer.name)
            evaluated = slopes if coupling is None else coupling.evaluated(layer, found, slopes)
            again, _ = self._solved(layer, evaluated, found)
            again = again * open_gates(again) if rectified else again
            results = self._forward(layer, again)
            if not results[2] < 0.9 * off:
                break
            found, (back, slopes, off) = again, results
        return found, back, off

    def _forward(self, layer: Convolution, values: Map) -> tuple[Map, Map, float]:
        """Run the network from the input of a convolution.

        Returns:
            The slopes of the loss at the input and at the output, and how far the gradients behind it are off.
        """
        running = self.running or self.model
        blank = self.images[:1].expand(len(values), *self.images.shape[1:])
        with torch.enable_grad():
            start = values.detach().requires_grad_()
            logits, kept = watched(running, blank, keep=(layer.call,), replace={layer.source: start})
            loss = F.cross_entropy(logits, self.labels)
            behind = {n: p for n, p in running.named_parameters() if n in self.gradients and p.requires_grad}
            wanted = [start, kept[layer.call], *behind.values()]
            found = torch.autograd.grad(loss, wanted, allow_unused=True)
        back, slopes, off, whole = found[0], found[1], 0.0, 0.0
        for name, slope in zip(behind, found[2:], strict=True):
            if slope is not None and bool(slope.any()):
                received = self.gradients[name]
                off += float((slope - received).square().sum())
                whole += float(received.square().sum())
        return back, slopes, (off / max(whole, 1e-300)) ** 0.5

    def _ended(self, best: PeeledMap | None, reason: str) -> PeeledMap:
        if best is None:
            raise CannotPeelError(f"No map was found that explains the update: {reason}.")
        return replace(best, reason=reason)
