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
EXACT = 1e-3  # difference of the gradients at which it is not solved again, and up to which it counts as exact
ROUNDED = 1e-5  # the same in train mode
EQUAL = 1e-5  # difference of slopes, relative, up to which they count as the same
AGREE = 5e-2  # difference of received gradients from those that a map gives, relative, up to which the map counts
SAYS = 0.8  # deviation of a map beside the deepest one, relative to its spread, up to which it is used
LOST = 0.6  # difference of received gradients from those that a map gives through noise, up to which the map counts
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
            slopes = last_slopes(
                end.network, last, end.slopes, self.gradients, generator=self.generator, noisy=bool(self.noise)
            )
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
        seen: dict[int, KnownMap] = {}
        expected = plan.deepest.layer.name if plan.deepest else ""
        for step in plan.steps:
            layer = step.layer
            if self.noise and step.crossing is not None:
                return _ended(best, f"the depthwise convolution before {layer.name} is crossed without noise only")
            known, found = self._best_of(step, ways, end.network) if ways else ([], first)
            values, is_open = found.solved.values, found.solved.is_open(step.closed_at)
            if step.is_cut:
                known, found, (values, run_back, off) = self._agreed(step, known, found, end, seen)
                slopes = [slopes_at(step, known, found.readings)]
                counts = found.solved.unsure <= UNSURE and off <= LOST if self.noise else off <= AGREE
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
            seen |= {one.call: one for one in (*known, maps[0])}
        return _ended(best, plan.reason)

    def _beside(self, best: PeeledMap, step: Step, found: Found) -> PeeledMap:
        """Return the deepest map with that of a step beside it, as far as the equations determine that."""
        solved = found.solved
        if solved.equations is not None:
            values, deviation, covariance = solved.equations.most_probable(solved.values)
        elif max(solved.off, best.off) <= EXACT:  # behind a map that is off, its errors are not known
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
        return best.beside(one) if bool(values.any()) and one.unsure <= SAYS else best

    def _best_of(self, step: Step, ways: list[list[KnownMap]], network: Network) -> tuple[list[KnownMap], Found]:
        """Solve for the map of a step with each of several slopes at the known maps, and keep what explains most."""
        found = [self._found(step, known, network) for known in ways]
        return min(found, key=lambda one: one[1].solved.off)

    def _found(self, step: Step, known: list[KnownMap], network: Network) -> tuple[list[KnownMap], Found]:
        """Solve for the map of a step, and put gates right that the gradients contradict.

        Returns:
            The known maps behind with their last gates, and the map.
        """
        found = self._solved(step, known, network)
        for _ in range(CORRECTED):
            again = self._corrected(step, known, found.solved.values)
            if again is None:
                break
            better = self._solved(step, again, network, start=found.solved.values)
            if not better.solved.off < found.solved.off:
                break
            known, found = again, better
        return known, found

    def _corrected(self, step: Step, known: list[KnownMap], values: Map) -> list[KnownMap] | None:
        """Return the known maps with other gates where the gradients contradict them; None if they do so nowhere."""
        if step.crossing is not None or not known:
            return None
        readings, coupling = readings_of(step, known, self.gradients), self.couplings.get(step.layer.name)
        if coupling is not None:
            readings = [replace(one, slopes=coupling.slopes(one.layer, values, one.slopes)) for one in readings]
        again = corrected(step, known, readings, values, exactly=not self.noise)
        is_same = all(torch.equal(a.is_open, b.is_open) for a, b in zip(again, known, strict=True))
        return None if is_same else again

    def _solved(self, step: Step, known: list[KnownMap], network: Network, *, start: Map | None = None) -> Found:
        """Solve for the map of a step, with the gates of the known maps as they are.

        Args:
            step: The step.
            known: The known maps behind.
            network: The network.
            start: A map near its own, where a map in train mode starts; None if there is none.
        """
        if step.layer.name in self.couplings:
            (one,) = readings_of(step, known, self.gradients)
            return self._coupled(step.layer, one.slopes, start)
        passings = passings_of(network, step, known) if step.is_tight else []
        if step.crossing is not None:
            reading, solved = across(network, step, known, passings, self.gradients)
            return Found(solved=solved, readings=[reading], passings=passings)
        readings = readings_of(step, known, self.gradients)
        return Found(
            solved=solve_input(readings, passings, noisy=bool(self.noise)), readings=readings, passings=passings
        )

    def _agreed(
        self, step: Step, known: list[KnownMap], found: Found, end: End, seen: Mapping[int, KnownMap]
    ) -> tuple[list[KnownMap], Found, tuple[Map, Map, float]]:
        """Polish a map, and put gates right that it contradicts, in turns.

        Args:
            step: The step that found it.
            known: The known maps right behind.
            found: The map.
            end: Where the walk began.
            seen: All maps that were found so far, by the number of their call.

        Returns:
            The known maps behind with their last gates, the map, and what `_polished` returns.
        """

        def polish(known: list[KnownMap], found: Found) -> tuple[Map, Map, float]:
            behind = {} if self.noise else {**seen, **{one.call: one for one in known}}
            return self._polished(step, list(behind.values()), found, end)

        polished = polish(known, found)
        for _ in range(0 if self.noise else CORRECTED):
            again = self._corrected(step, known, polished[0])
            if again is None:
                break
            solved = self._solved(step, again, end.network, start=polished[0])
            better = polish(again, solved)
            if not better[2] <= max(polished[2], EXACT):
                break
            known, found, polished = again, solved, better
        return known, found, polished

    def _polished(self, step: Step, known: list[KnownMap], found: Found, end: End) -> tuple[Map, Map, float]:
        """Solve for a map again, with the slopes that it gives itself, while that explains more.

        Where the first gates are wrong, those that the network computes from the map are mostly right.

        Returns:
            The map, the slopes of the loss there, and how far the gradients that it gives are off.
        """
        coupling = self.couplings.get(step.layer.name)
        values = found.solved.rectified(step.closed_at)
        back, readings, off = self._forward(step, values, known, end)
        for _ in range(POLISHED):
            if self.noise or off <= (ROUNDED if self.couplings else EXACT):
                break
            if coupling is None:
                solved = solve_input(readings, found.passings, start=values)
            else:
                evaluated = coupling.evaluated(step.layer, values, readings[0].slopes)
                solved = self._coupled(step.layer, evaluated, values).solved
            again = solved.rectified(step.closed_at)
            results = self._forward(step, again, known, end)
            if not results[2] < 0.9 * off:
                break
            values, (back, readings, off) = again, results
        return values, back, off

    def _forward(self, step: Step, values: Map, known: list[KnownMap], end: End) -> tuple[Map, list[Reading], float]:
        """Run the network from a map to the pooled features, with the known gates or its own; see `run_from`."""
        running = self.running or self.model
        kept = run_from(step, values, known, end, running, self.gradients)
        if not known or kept[2] <= ROUNDED:
            return kept
        return min(kept, run_from(step, values, [], end, running, self.gradients), key=lambda results: results[2])


def _ended(found: PeeledMap | None, reason: str) -> PeeledMap:
    if found is None:
        raise CannotPeelError(f"No map was found that explains the update: {reason}.")
    return replace(found, reason=reason)
