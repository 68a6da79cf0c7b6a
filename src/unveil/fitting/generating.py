"""Training a semantic generator: adversarially, on pictures whose pixels are gone, with their classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module

from unveil.core import Images
from unveil.enhancers.generator import Generator
from unveil.fitting.degrade import Degrader
from unveil.fitting.loop import contact_sheet
from unveil.fitting.losses import Critic, Likeness, critic_loss
from unveil.fitting.pairs import Pairs
from unveil.fitting.store import PairStore
from unveil.metrics.pixel import psnr

NAMELESS = 0.15  # share of the pictures whose class is withheld: what the generator draws without a label
BLANK = 0.1  # share of the pictures that are withheld: what it draws from the label alone
CHEAP = 0.4  # share of the training that learns from the cheap degradation
GREY = 0.5
SHOWN = 10


@dataclass(kw_only=True, eq=False)
class Generating:
    """A generator in training; see `Trainee`.

    Args:
        network: The generator, new or to be trained further.
        store: Pairs of real attacks.
        likeness: What the drawn pictures have to be like, as another network sees it.
        critic: Learns to tell them from real ones of their class.
        reader: Learns to name the class of real pictures, and asks that drawn ones be named so too.
        degrader: The cheap degradation of the first part; None to learn from real attacks throughout.
        batch: Pictures a step.
    """

    network: Generator
    store: PairStore
    likeness: Likeness
    critic: Critic
    reader: Reader
    degrader: Degrader | None = None
    batch: int = 16

    def __post_init__(self) -> None:
        self.network.to(memory_format=torch.channels_last)

    @property
    def networks(self) -> Mapping[str, Module]:
        """See `Trainee`."""
        return {"generator": self.network, "critic": self.critic, "reader": self.reader}

    def losses(self, share: float, *, random: np.random.Generator) -> Mapping[str, Tensor]:
        """See `Trainee`."""
        if self.degrader is not None and share < CHEAP:
            pairs = self.degrader.draw(self.batch, random=random)
        else:
            pairs = self.store.draw(self.batch, crop=pairs_side(self.store), random=random)
        rough, hints, classes = withheld(pairs, random)
        told = classes > 0
        with torch.autocast("cpu", torch.bfloat16):
            made = self.network(rough, hints, classes)
            unlike = self.likeness(made, pairs.truth).mean()
            judged = self.critic(made, pairs.labels)[told].mean()
            named = F.cross_entropy(self.reader(made).float()[told], pairs.labels[told]) if bool(told.any()) else 0.0
            real, drawn = self.critic(pairs.truth, pairs.labels), self.critic(made.detach(), pairs.labels)
            read = F.cross_entropy(self.reader(pairs.truth).float(), pairs.labels, label_smoothing=0.1)
        apart = (made - pairs.truth).abs().mean()
        return {
            "generator": apart + unlike.float() - 0.05 * judged.float() + 0.02 * named,
            "critic": critic_loss(real.float(), drawn.float()),
            "reader": read,
        }

    def judge(self, network: Module) -> tuple[dict[str, float], Tensor]:
        """Decibels, and some pictures: rough, drawn with the label, without, from the label alone, true."""
        gains: list[float] = []
        shown: list[Tensor] = []
        named: list[float] = []
        for pairs in self.store.validation:
            classes = pairs.labels + 1
            with torch.no_grad():
                made = network(pairs.rough, pairs.hints, classes).clamp(0, 1)
                without = network(pairs.rough, pairs.hints, torch.zeros_like(classes)).clamp(0, 1)
                alone = network(torch.full_like(pairs.rough, GREY), torch.zeros_like(pairs.hints), classes).clamp(0, 1)
                named += (self.reader(made).argmax(1) == pairs.labels).float().tolist()
            gains += (psnr(pairs.truth, made) - psnr(pairs.truth, pairs.rough)).tolist()
            if len(shown) < SHOWN:
                columns = zip(pairs.rough, made, without, alone, pairs.truth, strict=True)
                shown += [torch.cat(column, 1) for column in columns][:2]
        scores = {"gain": round(float(np.mean(gains)), 3), "named by its own reader": round(float(np.mean(named)), 3)}
        return scores, contact_sheet(shown)


def pairs_side(store: PairStore) -> int:
    """The largest size of the store's pictures: generators see whole pictures, for half a dog has no class."""
    return max(store.groups)


def withheld(pairs: Pairs, random: np.random.Generator) -> tuple[Images, Tensor, Tensor]:
    """Rough pictures, hints and classes, some of each withheld."""
    count = len(pairs.labels)
    classes = pairs.labels + 1
    nameless = torch.from_numpy(random.random(count) < NAMELESS)
    blank = torch.from_numpy(random.random(count) < BLANK) & ~nameless
    rough = torch.where(blank[:, None, None, None], torch.full_like(pairs.rough, GREY), pairs.rough)
    return rough, pairs.hints * ~blank[:, None], classes * ~nameless


class Reader(nn.Module):
    """A small classifier that names the classes; it is trained beside the generator and thrown away afterwards.

    Reference:
        Odena, Olah and Shlens, Conditional Image Synthesis with Auxiliary Classifier GANs, ICML 2017.
    """

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for width in widths:
            layers += [nn.Conv2d(inside, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            inside = width
        self.body = nn.Sequential(*layers)
        self.last = nn.Linear(inside, classes)

    def forward(self, images: Images) -> Tensor:
        """One score a class."""
        scores: Tensor = self.last(self.body(images * 2 - 1).mean((2, 3)))
        return scores
