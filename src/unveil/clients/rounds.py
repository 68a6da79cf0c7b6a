"""The local training of one client in several rounds on the same batch, each with its own weights of the model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Generator
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.factored import Candidate, added, dense, scaled
from unveil.core.loss import Loss
from unveil.core.network import Draws, Mode
from unveil.core.protocols import LocalTraining, loss_of
from unveil.core.types import Tensors

_State = tuple[tuple[int, int], ...]
"""Where each tensor of a model lies, and how often it was changed in place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    """The models of all rounds.

    Args:
        state: The state of the model that they were made of.
        copies: For each round the moved copy; None where nothing moved, because that is the model itself, which a weak
            mapping's value must not keep alive.
    """

    state: _State
    copies: Sequence[Module | None]


@dataclass(frozen=True, kw_only=True)
class TrainingOverRounds:
    """The mean of the updates that a client computes in several rounds on the same batch.

    The models of all rounds are made once for each model that it is called with, and anew where its tensors changed.

    Args:
        training: The local training of each round.
        moves: For each round how far the server had moved the model's weights before it; all zeros for the first.
    """

    training: LocalTraining
    moves: Sequence[Tensors]
    _made: WeakKeyDictionary[Module, _Made] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    @property
    def mode(self) -> Mode:
        """The mode in which the client runs the model."""
        return self.training.mode

    @property
    def local_loss(self) -> Loss:
        """The loss of each step; see `NamesLoss`."""
        return loss_of(self.training)

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Compute the mean; see `LocalTraining`."""
        each = [self.training(moved, batch, generator=generator) for moved in self._models(model)]
        return {name: dense(value) for name, value in scaled(added(each), 1 / len(each)).items()}

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Compute the mean of the simulated updates; see `LocalTraining`."""
        each = [self.training.simulate(moved, batch, draws=draws) for moved in self._models(model)]
        return scaled(added(each), 1 / len(each))

    def _models(self, model: Module) -> list[Module]:
        """Return the model of each round."""
        state = _state(model)
        made = self._made.get(model)
        if made is None or made.state != state:
            copies = [None if found is model else found for found in (moved(model, move) for move in self.moves)]
            made = self._made[model] = _Made(state=state, copies=copies)
        return [model if found is None else found for found in made.copies]

    def __str__(self) -> str:
        """The SPEC of the local training of each round."""
        return str(self.training)


def moved(model: Module, by: Tensors) -> Module:
    """Return a copy of the model whose weights a server moved: each less its tensor; others stay as they are.

    Args:
        model: The model, or a module that holds it as `model`, as a part of a network does that is run by itself.
        by: Parameter name -> what is subtracted.
    """
    if not any(bool(tensor.any()) for tensor in by.values()):
        return model
    found = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            tensor = by.get(name, by.get(name.removeprefix("model.")))
            if tensor is not None:
                parameter.sub_(tensor.to(parameter))
    return found


def _state(model: Module) -> _State:
    """Return what changes when a tensor of a model is replaced or changed in place."""
    return tuple((tensor.data_ptr(), tensor._version) for tensor in (*model.parameters(), *model.buffers()))
