"""The training loop of all enhancers: steps, running average of the weights, validation, checkpoints, resuming."""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.core.errors import UsageError, writing
from unveil.core.files import append_whole, write_whole
from unveil.core.pixels import png_of
from unveil.fitting.plan import Training

CHECKPOINT, CURVE = "checkpoint.pt", "curve.jsonl"
KEEP = 0.999  # share of the running average that each step keeps, once 9000 steps are done
WARM = 100  # steps over which the learning rate rises

Losses = Mapping[str, Float[Tensor, ""]]
"""The loss of each network, by the network's name."""


@runtime_checkable
class TrainingTask(Protocol):
    """What `train` trains: networks, their losses, and the validation of the first network."""

    @property
    def networks(self) -> Mapping[str, Module]:
        """All networks that are trained, by name; the first is the result of the training."""
        ...

    def losses(self, share: float, *, random: np.random.Generator) -> Losses:
        """Compute the loss of each network on a new batch.

        Args:
            share: Share of the training that is done, 0 to 1.
            random: Source of the batch's randomness.
        """
        ...

    def judge(self, network: Module) -> tuple[dict[str, float], Float[Tensor, "3 h w"]]:
        """Score the averaged network on pairs for validation.

        Returns:
            Scores by name, and a picture in [0, 1] for a person to look at.
        """
        ...


OnStep = Callable[[int, Mapping[str, float]], None]
"""(number of the step, losses and scores by name)."""


def train(task: TrainingTask, training: Training, folder: Path, on_progress: OnStep | None = None) -> Module:
    """Train the networks of a task, from the folder's checkpoint if there is one.

    Args:
        task: What is trained.
        training: The schedule.
        folder: Folder for checkpoint.pt, curve.jsonl (one line for each validation) and look-STEP.png.
        on_progress: Called after each step with its number and the losses; after a validation with its scores too.

    Returns:
        The first network with the running average of its weights, in eval mode.

    Raises:
        UsageError: A loss is NaN or infinite, the folder holds another training's checkpoint, or the disk is full.
    """
    with writing(folder, "--work"):
        folder.mkdir(parents=True, exist_ok=True)
    networks = task.networks
    average = copy.deepcopy(next(iter(networks.values()))).requires_grad_(False)
    optimisers = {
        name: torch.optim.Adam(net.parameters(), lr=training.lr, betas=(0.9, 0.99)) for name, net in networks.items()
    }
    start = _resume(folder / CHECKPOINT, training, networks, average, optimisers)
    for step in range(start, training.steps):
        # Seeded by the step, so that a resumed training gives the same result as one that was not interrupted.
        random = np.random.default_rng([training.seed, step])
        losses = task.losses(step / training.steps, random=random)
        for name, loss in losses.items():
            if not math.isfinite(float(loss.detach())):
                raise UsageError(f"fit: the loss of the {name} is not a number at step {step}; lower --lr")
        for name, optimiser in optimisers.items():
            if name in losses:
                _step(optimiser, networks[name], losses[name], training.lr * _speed(step, training.steps))
        _follow(average, next(iter(networks.values())), step)
        seen = {name: float(loss.detach()) for name, loss in losses.items()}
        if (step + 1) % training.every == 0 or step + 1 == training.steps:
            scores, pictures = task.judge(average.eval())
            with writing(folder, "--work"):
                line = json.dumps({"step": step + 1, **seen, **scores}) + "\n"
                append_whole(folder / CURVE, line.encode())
                write_whole(folder / f"look-{step + 1:06d}.png", png_of(pictures), private=True)
                _keep(folder / CHECKPOINT, step + 1, training, networks, average, optimisers)
            seen |= scores
        if on_progress is not None:
            on_progress(step + 1, seen)
    return average.eval()


def _step(optimiser: torch.optim.Optimizer, network: Module, loss: Float[Tensor, ""], lr: float) -> None:
    """Take one step of the optimiser with a gradient that is clipped to L2 norm 1."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.grad = slope
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()
    optimiser.zero_grad()


def _speed(step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the highest one."""
    return min(1.0, (step + 1) / WARM) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _follow(average: Module, network: Module, step: int) -> None:
    """Move the running average of the weights towards the network's weights, in place."""
    keep = min(KEEP, (step + 1) / (step + 10))
    with torch.no_grad():
        for mean, value in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)


def _keep(
    path: Path,
    step: int,
    training: Training,
    networks: Mapping[str, Module],
    average: Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Write a checkpoint, whole or not at all."""
    state = {
        "step": step,
        "training": asdict(training),
        "networks": {name: net.state_dict() for name, net in networks.items()},
        "average": average.state_dict(),
        "optimisers": {name: optimiser.state_dict() for name, optimiser in optimisers.items()},
    }
    content = io.BytesIO()
    torch.save(state, content)
    write_whole(path, content.getbuffer())


def _resume(
    path: Path,
    training: Training,
    networks: Mapping[str, Module],
    average: Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> int:
    """Load a checkpoint into the networks and optimisers, in place.

    Returns:
        The number of steps that are done; 0 if there is no checkpoint.

    Raises:
        UsageError: The checkpoint is damaged, or another training's.
    """
    if not path.is_file():
        return 0
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        before = state["training"]
        for key, now in asdict(training).items():
            if before[key] != now:
                raise ValueError(f"{key} was {before[key]!r}, now it is {now!r}")
        for name, net in networks.items():
            net.load_state_dict(state["networks"][name])
        average.load_state_dict(state["average"])
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        return int(state["step"])
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{path} is not a checkpoint of this training ({reason}); choose another --work, or delete it"
        ) from None


def contact_sheet(columns: Sequence[Float[Tensor, "3 h _"]]) -> Float[Tensor, "3 h w"]:
    """Join columns of pictures into one picture, from left to right; all have the same height."""
    return torch.cat(list(columns), 2)
