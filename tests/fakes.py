"""Stand-ins for components: a small network, its client and update, attacks, a training, obfuscations, an enhancer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Module

from seeds import seeded, shifted
from unveil.attacks.separation.peeling.watch import Convolution
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.factored import Candidate
from unveil.core.protocols import Knowledge, Misfit
from unveil.core.reconstruction import Reconstruction, Stop
from unveil.core.records import ATTACK, Trial
from unveil.core.registry import spec_of
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.core.watch import Watch
from unveil.obfuscations.likelihoods import added, penalised, squared


class SmallNet(nn.Module):
    """A convolution and two Linear layers: small enough for float64 and finite differences."""

    def __init__(self, classes: int = 10, size: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Flatten())
        self.hidden = nn.Linear(4 * size * size, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(self.features(x))))


def convolution_on(x: Tensor, weight: Tensor, *, stride: int, padding: int) -> Convolution:
    """The call of a convolution without bias on a map, as a watched network has it."""
    made = F.conv2d(x, weight, stride=stride, padding=padding)
    return Convolution(
        name="layer.weight",
        weight=weight,
        bias=torch.zeros(len(weight)).to(weight),
        call=2,
        source=1,
        shared=False,
        stride=(stride, stride),
        padding=(padding, padding),
        input_shape=(x.shape[1], x.shape[2], x.shape[3]),
        output_shape=(made.shape[1], made.shape[2], made.shape[3]),
    )


def small_client(*, seed: int = 0, n: int = 4, size: int = 8, classes: int = 10) -> tuple[nn.Module, Batch]:
    """A net and a batch with distinct labels, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(shifted(seed))
        model = SmallNet(classes, size)
    generator = seeded(seed)
    images = torch.rand((n, 3, size, size), generator=generator)
    return model, Batch(images, torch.randperm(classes, generator=generator)[:n])


def small_update(*, seed: int = 0) -> Update:
    """The gradient of `small_client`."""
    model, batch = small_client(seed=seed)
    return Update(FedSGD()(model, batch))


def with_attack(trial: Trial, **fields: Any) -> Trial:
    """The same trial with other fields in the outcome of its attack, such as `scores` or `controls`."""
    outcomes = {**trial.outcomes, ATTACK: replace(trial.outcomes[ATTACK], **fields)}
    return replace(trial, outcomes=outcomes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guess:
    """Answers what it is told to, at random if nothing, and notes what it was granted."""

    name: ClassVar[str] = "guess"
    images: Tensor | None = None
    losses: Sequence[float] = (1.0,)
    stop: Stop = Stop.FINISHED
    granted: list[Knowledge] = dataclasses.field(default_factory=list)

    def __call__(
        self, model: Module, update: Update, knowledge: Knowledge, *, generator: Generator, watch: Watch | None = None
    ) -> Reconstruction:
        self.granted.append(knowledge)
        drawn = torch.rand(knowledge.num_images, *knowledge.image_shape, generator=generator)
        return Reconstruction(
            images=drawn if self.images is None else self.images,
            labels=torch.arange(knowledge.num_images),
            losses=self.losses,
            stop=self.stop,
        )

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Sends:
    """A client that sends this number everywhere."""

    value: float
    name: ClassVar[str] = "sends"
    mode: ClassVar[Literal["eval", "train"]] = "eval"

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Mapping[str, Tensor]:
        return {name: torch.full_like(weight, self.value) for name, weight in model.named_parameters()}

    def simulate(self, model: Module, batch: Batch) -> Candidate:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Erase:
    """An obfuscation that lets nothing through."""

    name: ClassVar[str] = "erase"

    @property
    def family(self) -> Literal["perturb"]:
        return "perturb"

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        return Update({name: torch.zeros_like(tensor) for name, tensor in update.tensors.items()})

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting:
    """Guesses at random; stops the run, as Ctrl-C does, once it was called `limit` times."""

    name: ClassVar[str] = "counting"
    limit: int = 1000
    calls: list[int] = dataclasses.field(default_factory=list, compare=False)

    def __call__(
        self, model: Module, update: Update, knowledge: Knowledge, *, generator: Generator, watch: Watch | None = None
    ) -> Reconstruction:
        if len(self.calls) == self.limit:
            raise KeyboardInterrupt
        self.calls.append(1)
        images = torch.rand(knowledge.num_images, *knowledge.image_shape, generator=generator)
        assert knowledge.labels is not None
        return Reconstruction(images=images, labels=knowledge.labels, losses=[1.0])

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """The same attack under another name."""

    name: ClassVar[str] = "named"
    tag: str = ""

    def __call__(
        self, model: Module, update: Update, knowledge: Knowledge, *, generator: Generator, watch: Watch | None = None
    ) -> Reconstruction:
        return Counting()(model, update, knowledge, generator=generator, watch=watch)

    __str__ = spec_of


@dataclasses.dataclass(frozen=True)
class Towards:
    """An enhancer that answers these pictures."""

    images: Tensor
    is_faithful: bool = True
    uses_labels: bool = False
    assumptions: tuple[str, ...] = ()

    def __call__(self, guess: Reconstruction, *, class_names: Sequence[str] = ()) -> Reconstruction:
        return dataclasses.replace(guess, images=self.images)

    def __str__(self) -> str:
        return "towards"


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A user's own sparsifier, which only knows that `sparse` means that what is zero was not sent."""

    name: ClassVar[str] = "threshold"
    family: ClassVar[Family] = "sparsify"
    least: float = 0.01

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        tensors = {name: t * (t.abs() >= self.least) for name, t in update.tensors.items()}
        return Update(tensors, replace(update.coding, sparse=True))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        sent = squared(received, sent_only=True)
        return sent if sent_only else added(sent, self.unsent(received))

    def unsent(self, received: Update) -> Misfit:
        return penalised(received, dict.fromkeys(received.tensors, self._excess))

    def _excess(self, x: Tensor, y: Tensor) -> Tensor:
        return (x.abs() - self.least).clamp_min(0).square() * (y == 0)
