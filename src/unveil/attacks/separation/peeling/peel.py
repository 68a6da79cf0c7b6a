"""Peel a network: from pooled features to the map before pooling, and from there one convolution after the other.

`top.py` gives the input of the last convolution, `plan.py` the steps from there. With a map known, its own gates are
those of the convolution before, and the input of that follows by linear algebra.

Wherever the network depends on a map alone, the rest of the network is run from the map that was found. The gradients
that this gives are compared with the received ones: a map counts only while they agree.

Reference:
    One layer after the other: Zhu and Blaschko, R-GAP, ICLR 2021. The walk: ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.separation.frozen.coupling import Coupling, solve_coupled
from unveil.attacks.separation.frozen.top import last_normalised_map
from unveil.attacks.separation.frozen.unmixing import Mixture, are_determined, map_of_patches
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.peeling.depthwise import across
from unveil.attacks.separation.peeling.equations import Passing, Reading
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.forward import End, run_from
from unveil.attacks.separation.peeling.known import KnownMap, corrected, passings_of, readings_of, slopes_at
from unveil.attacks.separation.peeling.network import Network
from unveil.attacks.separation.peeling.peeled_map import InputMap, PeeledMap
from unveil.attacks.separation.peeling.plan import Plan, Step, planned
from unveil.attacks.separation.peeling.slopes import open_gates
from unveil.attacks.separation.peeling.solving import Solved, solve_input
from unveil.attacks.separation.peeling.top import LastConvolution, last_convolution, last_slopes, read_slopes
from unveil.attacks.separation.peeling.watch import Convolution, Map
from unveil.core.types import Tensors

POLISHED = 20  # times that a map is solved again with the slopes that it gives itself, at most
CORRECTED = 3  # times that gates which the gradients contradict are put right, at most
EXACT = 1e-3  # difference of the gradients at which it is not solved again
ROUNDED = 1e-5  # the same in train mode
EQUAL = 1e-5  # difference of slopes, relative, up to which they count as the same
AGREE = 1e-2  # difference of received gradients from those that a map gives, relative, up to which the map counts
SAYS = 0.8  # deviation of a map beside the deepest one, relative to its spread, up to which it is used
UNSURE = 0.3  # deviation of a map from an obfuscated update, relative to its spread, up to which the map counts


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A map that was solved for, and from what.

    Args:
        solved: The map.
        readings: The convolutions that read it, with the slopes of the loss at their outputs.
        passings: The known maps behind that were used.
    """

    solved: Solved
    readings: list[Reading]
    passings: list[Passing] = field(default_factory=list)


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
        noise: Name of a parameter -> how much the obfuscation changes its gradient, relative to its length; empty if
            nothing was obfuscated.
    """

    model: Module
    gradients: Tensors
    labels: Int[Tensor, " n"]
    images: Float[Tensor, "probes _ _ _"]
    generator: Generator
    running: Module | None = None
    couplings: Mapping[str, Coupling] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)

    def deepest(self, features: Float[Tensor, "n features"], head: Head) -> PeeledMap:
        """Walk from pooled features towards the pictures, and return the deepest map that counts.

        Args:
            features: The pooled features, one row for each image.
            head: The head that reads them.

        Raises:
            CannotPeelError: Not even the input of the last convolution was found.
        """
        network = Network.of(self.model, self.images, self.gradients)
        if not network.layers:
            raise CannotPeelError("The network has no convolution whose gradient was sent.")
        last = last_convolution(network, head)
        plan = planned(network, last.layer, count=len(features), coupled=frozenset(self.couplings))
        slopes = read_slopes(head, features, self.labels, self.gradients, noise=self.noise.get(head.weights[0], 0.0))
        end = End(network=network, call=last.pooled, features=features, slopes=slopes)
        return self._walked(plan, self._top(last, end), end)

    def _top(self, last: LastConvolution, end: End) -> Found:
        """Return the input of the last convolution."""
        layer = last.layer
        gradient, coupling = self.gradients[layer.name], self.couplings.get(layer.name)
        if coupling is None:
            slopes = last_slopes(end.network, last, end.slopes, self.gradients, generator=self.generator)
            reading = Reading(layer=layer, gradient=gradient, slopes=slopes)
            return Found(solved=solve_input([reading], [], noisy=bool(self.noise)), readings=[reading])
        values, evaluated = last_normalised_map(last, gradient, end.slopes, coupling, generator=self.generator)
        return self._coupled(layer, evaluated, values)

    def _coupled(self, layer: Convolution, evaluated: Map, start: Map | None) -> Found:
        """Return the input of a convolution in front of BatchNorm in train mode.

        Args:
            layer: The convolution.
            evaluated: The slopes that its output would have in eval mode.
            start: A map near its input; None if there is none.
        """
        gradient, coupling = self.gradients[layer.name], self.couplings[layer.name]
        if start is None and are_determined(layer, len(evaluated)):
            rows = evaluated.flatten(2).transpose(1, 2).flatten(0, 1)
            patches = Mixture.of(layer, gradient, coupling, len(rows)).patches(rows)
            start = map_of_patches(layer, patches, len(evaluated))
        values, slopes = solve_coupled(layer, gradient, evaluated, coupling, start=start)
        reading = Reading(layer=layer, gradient=gradient, slopes=slopes)
        off = float((reading(values) - gradient).norm() / gradient.norm())
        return Found(solved=Solved.by_gap(values, off=off), readings=[reading])

    def _walked(self, plan: Plan, first: Found, end: End) -> PeeledMap:
        """Take the steps of a plan, while the maps explain the update.

        Args:
            plan: The plan.
            first: The input of the last convolution.
            end: Where the walk begins.
        """
        best: PeeledMap | None = None
        ways: list[list[KnownMap]] = []
        expected = plan.deepest.layer.name if plan.deepest else ""
        for step in plan.steps:
            layer = step.layer
            if self.noise and step.crossing is not None:
                return _ended(best, f"the depthwise convolution before {layer.name} is crossed without noise only")
            known, found = self._best_of(step, ways, end.network) if ways else ([], first)
            values, is_open = found.solved.values, found.solved.is_open(step.closed_at)
            if step.is_cut:
                known, found, (values, run_back, off) = self._agreed(step, known, found, end)
                slopes = [slopes_at(step, known, found.readings)]
                counts = found.solved.unsure <= UNSURE if self.noise else off <= AGREE
                if not counts:
                    best = best and self._beside(best, step, found)
                    lost = "is lost in the noise" if self.noise else f"does not explain the update ({off:.1%})"
                    return _ended(best, f"the map before {layer.name} {lost}")
                here = InputMap(
                    before=layer.name,
                    padded=layer.padded,
                    values=values,
                    deviation=found.solved.deviation if self.noise else None,
                )
                if best is None or here.says >= best.deepest.says:
                    best = PeeledMap(deepest=here, off=off, expected=expected)
                else:
                    best = best.beside(here)
                is_open = open_gates(values, step.closed_at)
                # A run from the map flips gates that are nearly zero; without one, ways around known maps are missing.
                if self.couplings:
                    slopes = [run_back]
                elif float((slopes[0] - run_back).norm()) > EQUAL * float(run_back.norm()):
                    slopes.append(run_back)
            else:
                slopes = [slopes_at(step, known, found.readings)]
                best = best and self._beside(best, step, found)
            doubtful = found.solved.is_doubtful(step.closed_at)
            maps = [
                KnownMap(call=layer.source, values=values, slopes=back, is_open=is_open, is_doubtful=doubtful)
                for back in slopes
            ]
            ways = [[one] if step.is_cut else [one, *known] for one in maps]
        return _ended(best, plan.reason)

    def _beside(self, best: PeeledMap, step: Step, found: Found) -> PeeledMap:
        """Return the deepest map with that of a step beside it, as far as the equations determine that."""
        solved = found.solved
        if solved.equations is not None:
            values, deviation, covariance = solved.equations.most_probable(solved.values)
        elif solved.off <= AGREE:
            values, deviation, covariance = solved.rectified(step.closed_at), None, None
        else:
            return best
        one = InputMap(
            before=step.layer.name,
            padded=step.layer.padded,
            values=values,
            deviation=deviation,
            covariance=covariance,
        )
        return best.beside(one) if one.unsure <= SAYS else best

    def _best_of(self, step: Step, ways: list[list[KnownMap]], network: Network) -> tuple[list[KnownMap], Found]:
        """Solve for the map of a step with each of several slopes at the known maps, and keep what explains most."""
        found = [self._found(step, known, network) for known in ways]
        return min(found, key=lambda one: one[1].solved.off)

    def _found(self, step: Step, known: list[KnownMap], network: Network) -> tuple[list[KnownMap], Found]:
        """Solve for the map of a step, and put gates right that the gradients contradict.

        Returns:
            The known maps behind with their last gates, and the map.
        """
        if step.layer.name in self.couplings:
            (reading,) = readings_of(step, known, self.gradients)
            return known, self._coupled(step.layer, reading.slopes, None)
        found = self._solved(step, known, network)
        for _ in range(CORRECTED):
            again = corrected(step, known, found.readings, found.solved.values, exactly=not self.noise)
            if all(torch.equal(a.is_open, b.is_open) for a, b in zip(again, known, strict=True)):
                break
            better = self._solved(step, again, network)
            if not better.solved.off < found.solved.off:
                break
            known, found = again, better
        return known, found

    def _solved(self, step: Step, known: list[KnownMap], network: Network) -> Found:
        """Solve for the map of a step, with the gates of the known maps as they are."""
        passings = passings_of(network, step, known) if step.is_tight else []
        if step.crossing is not None:
            reading, solved = across(network, step, known, passings, self.gradients)
            return Found(solved=solved, readings=[reading], passings=passings)
        readings = readings_of(step, known, self.gradients)
        return Found(
            solved=solve_input(readings, passings, noisy=bool(self.noise)), readings=readings, passings=passings
        )

    def _agreed(
        self, step: Step, known: list[KnownMap], found: Found, end: End
    ) -> tuple[list[KnownMap], Found, tuple[Map, Map, float]]:
        """Polish a map, and put gates right that it contradicts, in turns.

        Returns:
            The known maps behind with their last gates, the map, and what `_polished` returns.
        """
        polished = self._polished(step, found, end)
        if self.noise or self.couplings or not known:
            return known, found, polished
        for _ in range(CORRECTED):
            again = corrected(step, known, readings_of(step, known, self.gradients), polished[0], exactly=True)
            if all(torch.equal(a.is_open, b.is_open) for a, b in zip(again, known, strict=True)):
                break
            solved = self._solved(step, again, end.network)
            better = self._polished(step, solved, end)
            if not better[2] <= max(polished[2], EXACT):
                break
            known, found, polished = again, solved, better
        return known, found, polished

    def _polished(self, step: Step, found: Found, end: End) -> tuple[Map, Map, float]:
        """Solve for a map again, with the slopes that it gives itself, while that explains more.

        Where the first gates are wrong, those that the network computes from the map are mostly right.

        Returns:
            The map, the slopes of the loss there, and how far the gradients that it gives are off.
        """
        coupling = self.couplings.get(step.layer.name)
        values = found.solved.rectified(step.closed_at)
        back, readings, off = self._forward(step, values, end)
        for _ in range(POLISHED):
            if self.noise or off <= (ROUNDED if self.couplings else EXACT):
                break
            if coupling is None:
                solved = solve_input(readings, found.passings, start=values)
            else:
                evaluated = coupling.evaluated(step.layer, values, readings[0].slopes)
                solved = self._coupled(step.layer, evaluated, values).solved
            again = solved.rectified(step.closed_at)
            results = self._forward(step, again, end)
            if not results[2] < 0.9 * off:
                break
            values, (back, readings, off) = again, results
        return values, back, off

    def _forward(self, step: Step, values: Map, end: End) -> tuple[Map, list[Reading], float]:
        """Run the network from a map to the pooled features; see `run_from`."""
        return run_from(step, values, end, self.running or self.model, self.gradients)


def _ended(found: PeeledMap | None, reason: str) -> PeeledMap:
    if found is None:
        raise CannotPeelError(f"No map was found that explains the update: {reason}.")
    return replace(found, reason=reason)
