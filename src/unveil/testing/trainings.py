"""The laws of local trainings."""

from __future__ import annotations

from typing import Any

import torch

from unveil.clients.training import parse
from unveil.core.batch import Batch
from unveil.core.factored import dense
from unveil.core.protocols import SendsBuffers
from unveil.testing.sample import (
    client,
    copied,
    generator,
    is_same,
    no_global_randomness,
    require,
    require_kind,
    require_round_trip,
)


def check_training(training: Any, *, seed: int = 0) -> None:
    """Check a local training: it sends a tensor for each parameter, and its simulation is equal and differentiable.

    Args:
        training: The local training.
        seed: Seed of the client on which it is tried, and of its own draws.

    Raises:
        AssertionError: The local training breaks a law; the message names the first.
    """
    who = require_kind("training", training)
    require_round_trip(who, training, parse)
    model, batch = client(seed)
    weights = copied(model.state_dict())
    images = batch.images.clone().requires_grad_()
    with no_global_randomness(who):
        sent = training(model, batch, generator=generator(seed))
        again = training(model, batch, generator=generator(seed))
        other = training(model, batch, generator=generator(seed + 1))
        simulated = training.simulate(model, Batch(images, batch.labels))
    require(is_same(model.state_dict(), weights), f"{who} changed the model; work on a copy of its weights")
    if isinstance(training, SendsBuffers) and training.buffers == "kept":
        with no_global_randomness(who):
            trained = training.trained(model, batch, generator=generator(seed))
        require(is_same(sent, trained.tensors), f"{who}: `trained` has other tensors than a call")
        require(not trained.buffers, f"{who}: `trained` has changes of buffers that the network does not have")
    require(is_same(sent, again), f"{who} is another for the same seed; draw from the generator")
    parameters = dict(model.named_parameters())
    require(set(sent) == set(parameters), f"{who} does not send one tensor a parameter, by the parameter's name")
    for name, tensor in sent.items():
        require(tensor.shape == parameters[name].shape, f"{who} sends {name!r} as {tuple(tensor.shape)}")
        require(bool(torch.isfinite(tensor).all()), f"{who} sends NaN or infinite values in {name!r}")
    if is_same(sent, other):  # without noise of the client's own
        for name, tensor in sent.items():
            guess = dense(simulated[name])
            require(
                torch.allclose(guess, tensor, rtol=1e-3, atol=1e-5 + 1e-4 * float(tensor.abs().max())),
                f"{who}: its simulation of the true batch is not what the client sends for {name!r}",
            )
    size = torch.stack([dense(value).square().sum() for value in simulated.values()]).sum()
    require(size.requires_grad, f"{who}: its simulation has no slope in the pictures; keep the graph")
    (slope,) = torch.autograd.grad(size, images)
    require(
        bool(torch.isfinite(slope).all()) and bool(slope.any()),
        f"{who}: the slope of its simulation in the pictures is zero or not finite",
    )
