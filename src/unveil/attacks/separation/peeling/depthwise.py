"""Cross a depthwise convolution: from the slopes at its output to the input of the pointwise convolution before it.

A depthwise convolution has too few equations for its own input. But the slopes at its input follow from those at its
output. Behind the gates v of the pointwise convolution before it they are, place by place, a known row u times v, and
this row lies in the space that the columns of that convolution's gradient span. So v is a corner of the polytope

    { v : u v in the space, 0 <= v <= 1 }

Its constraints are many more than the space has dimensions, so hardly anything else is in it but 0, v and what lies
between them: the largest sum of v, a linear program, is attained at the gates.

Where the network passes the pointwise convolution's input on to a known map without gates, the input follows from that
map, and the gates from the input. Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog
from torch import Tensor

from unveil.attacks.separation.peeling.equations import Passing, Reading, input_slopes, read_slopes
from unveil.attacks.separation.peeling.known import KnownMap, slopes_behind
from unveil.attacks.separation.peeling.network import Network
from unveil.attacks.separation.peeling.plan import Step
from unveil.attacks.separation.peeling.slopes import open_gates
from unveil.attacks.separation.peeling.solving import Solved, solve_input
from unveil.attacks.separation.peeling.watch import Map
from unveil.attacks.separation.relu_patterns import row_space, settled
from unveil.core.types import Tensors

TURNS = 60  # most turns of projecting and rounding after the linear program
SLACK = 1e-2  # how far below 0 and above 1 an entry of v may be in the linear program
SMALL = 1e-2  # size of an entry of u, of its largest one, below which it is no constraint
REREAD = 6  # times that gates which the gradient contradicts are put right, at most
CLEARLY = 0.3  # ratio of the distances from a slope that was read up to which the other gate is taken
NOISY = 10.0  # distance from a slope that was read, in units of its place's median, up to which it is explained
OFF = 0.1  # the same, in units of the slope behind an open gate


def across(
    network: Network,
    step: Step,
    known: Sequence[KnownMap],
    passings: list[Passing],
    gradients: Tensors,
) -> tuple[Reading, Solved]:
    """Return the pointwise convolution before a depthwise one, with the slopes at its output, and its input.

    Args:
        network: The network.
        step: The step across the depthwise convolution.
        known: The known maps behind.
        passings: Known maps to which the network passes the input on, without gates; there may be none.
        gradients: The received gradient of each parameter, float64.
    """
    assert step.crossing is not None
    depthwise, slope = step.crossing.depthwise, step.crossing.slope
    behind = slopes_behind(step, known, 0)
    opened = input_slopes(depthwise, depthwise.weight.to(behind), behind) * slope.values[:, None, None]
    reading = Reading(layer=step.layer, gradient=gradients[step.layer.name], slopes=opened)
    if not slope.is_gated:
        return reading, solve_input([reading], passings)
    gates = _gates_at(network, step, _passed_on(passings[0])) if passings else _searched(reading)
    reading = replace(reading, slopes=opened * gates)
    solved = solve_input([reading], passings)
    best = reading, solved
    for _ in range(REREAD):
        again = _reread(reading, opened, solved.values, _gates_at(network, step, solved.values))
        if torch.equal(again.slopes, reading.slopes):
            break
        reading, solved = again, solve_input([again], passings)
        if solved.off < best[1].off:
            best = reading, solved
    return best


def _gates_at(network: Network, step: Step, found: Map) -> Map:
    """Return the gates behind the pointwise convolution of a step, from its input."""
    assert step.crossing is not None
    source = step.crossing.depthwise.source
    with torch.no_grad():
        made = network.results((source,), replace={step.layer.source: found}, count=len(found))
    return open_gates(made[source], step.crossing.slope.closed_at)


def _searched(opened: Reading) -> Map:
    """Return the gates behind a pointwise convolution, from its slopes if all were open, place by place."""
    n, _, height, width = opened.slopes.shape
    rows = opened.slopes.permute(0, 2, 3, 1).flatten(0, 2)
    space = row_space(opened.gradient.flatten(1), len(rows))
    gates = torch.stack([gates_in(space, row) for row in rows])
    return gates.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def _reread(reading: Reading, opened: Map, found: Map, gates: Map) -> Reading:
    """Return a pointwise convolution with other gates where its gradient contradicts them.

    With its input the slopes at its output are read from its gradient. A gate changes if the other slope is clearly
    nearer, or if neither explains what was read and the input itself gives the other gate.

    Args:
        reading: The convolution, with the slopes at its output.
        opened: The slopes there if all gates were open.
        found: Its input.
        gates: The gates that the network computes from the input.
    """
    every = torch.ones(len(reading.gradient), dtype=torch.bool, device=found.device)
    read = read_slopes(reading, every, found)
    if read is None:
        return reading
    before, other = reading.slopes, opened - reading.slopes
    off, off_other = ((read - slopes.flatten(2)).abs().reshape(opened.shape) for slopes in (before, other))
    usual = NOISY * off.flatten(2).median(1).values.reshape(len(off), 1, *off.shape[2:])
    is_nearer = off_other < CLEARLY * off
    is_unexplained = (gates * opened != before) & (off > usual) & (off > OFF * opened.abs())
    changed = (is_nearer | is_unexplained) & (opened.abs() > usual)
    return replace(reading, slopes=torch.where(changed, other, before))


def _passed_on(passing: Passing) -> Map:
    """Return the map that is passed on to a known one; zeros where the factor of that is zero."""
    assert passing.direct is not None
    factor = passing.direct[:, None, None].expand_as(passing.values)
    return torch.where(passing.is_open > 0, passing.values / factor, 0.0)


def gates_in(space: Float[Tensor, "out rank"], opened: Float[Tensor, " out"]) -> Float[Tensor, " out"]:
    """Return the pattern of gates whose slopes lie in a space; zeros if the linear program has no solution.

    Args:
        space: An orthonormal basis of the space, float64.
        opened: The slopes if all gates were open.
    """
    used = opened.abs() > SMALL * opened.abs().max()
    matrix = (space[used] / opened[used, None]).cpu().numpy()
    bounds = np.concatenate([np.full(len(matrix), 1 + SLACK), np.full(len(matrix), SLACK)])
    solved = linprog(-matrix.mean(0), A_ub=np.concatenate([matrix, -matrix]), b_ub=bounds, bounds=(None, None))
    if solved.x is None:
        return torch.zeros_like(opened)
    row = space @ torch.from_numpy(solved.x).to(space)
    rounded = (row * opened.sign() > 0.5 * opened.abs()).to(space)
    patterns, _ = settled(space, opened, rounded[:, None], rounds=TURNS)
    return patterns[:, 0]
