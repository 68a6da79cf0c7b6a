"""Adversarial training of a semantic generator, on rough pictures that have lost most pixels and on their classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import Module

from unveil.core.pixels import GREY
from unveil.core.types import Images
from unveil.enhancers.generator import ClassConditionalGenerator
from unveil.fitting.degrade import Degrader
from unveil.fitting.loop import Losses, contact_sheet
from unveil.fitting.losses import Critic, Likeness, Maps, critic_loss
from unveil.fitting.pairs import Pairs
from unveil.fitting.store import PairStore
from unveil.metrics.pixel import psnr

NAMELESS = 0.15  # share of the pictures whose class is withheld, so that the generator learns to draw without a label
BLANK = 0.1  # share of the pictures that are made grey, so that it learns to draw from the label alone
CHEAP = 0.4  # share of the training, its first part, that uses the cheap degradation
SHOWN = 10  # pictures on a contact sheet
JUDGED, NAMED = 0.05, 0.1  # weights of the critic's and the reader's terms in the generator's loss


@dataclass(kw_only=True, eq=False)
class GeneratorTask:
    """A generator in training; see `TrainingTask`.

    Args:
        network: The generator, new or to be trained further.
        store: Pairs from real attacks.
        likeness: Distance of drawn pictures from the true ones, computed by another network.
        critic: Learns to tell drawn pictures from real ones of their class.
        reader: Learns the class of real pictures; the generator is trained so that it names drawn ones correctly too.
        degrader: The cheap degradation for the first part of the training; None to use real attacks throughout.
        batch: Pictures in each step.
    """

    network: ClassConditionalGenerator
    store: PairStore
    likeness: Likeness
    critic: Critic
    reader: AuxiliaryClassifier
    degrader: Degrader | None = None
    batch: int = 16

    def __post_init__(self) -> None:
        self.network.to(memory_format=torch.channels_last)

    @property
    def networks(self) -> Mapping[str, Module]:
        """See `TrainingTask`."""
        return {"generator": self.network, "critic": self.critic, "reader": self.reader}

    def losses(self, share: float, *, random: np.random.Generator) -> Losses:
        """See `TrainingTask`."""
        if self.degrader is not None and share < CHEAP:
            pairs = self.degrader.draw(self.batch, random=random)
        else:
            pairs = self.store.draw(self.batch, crop=pairs_side(self.store), random=random)
        rough, hints, classes = withheld(pairs, random)
        labelled = classes > 0
        with torch.autocast("cpu", torch.bfloat16):
            made = self.network(rough, hints, classes)
            unlike = self.likeness(made, pairs.truth).mean()
            true, drawn = glimpsed(pairs.truth, random), glimpsed(made, random)
            judged = self.critic(drawn, pairs.labels)[labelled].mean()
            named = F.cross_entropy(self.reader(drawn).float()[labelled], pairs.labels[labelled])
            real, unreal = self.critic(true, pairs.labels), self.critic(drawn.detach(), pairs.labels)
            read = F.cross_entropy(self.reader(true).float(), pairs.labels, label_smoothing=0.1)
        apart = (made - pairs.truth).abs().mean()
        return {
            "generator": apart + unlike.float() - JUDGED * judged.float() + NAMED * named,
            "critic": critic_loss(real.float(), unreal.float()),
            "reader": read,
        }

    def judge(self, network: Module) -> tuple[dict[str, float], Float[Tensor, "3 h w"]]:
        """Score the averaged network; see `TrainingTask`.

        Returns:
            The gain in PSNR over the rough pictures in dB, with the share whose class the reader names; and a contact
            sheet. Each of its columns shows one picture: rough, drawn with its label, drawn without, drawn from the
            label alone, and true.
        """
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
    """Return the largest side of the store's pictures in pixels; a generator is trained on whole pictures."""
    return max(store.groups)


def withheld(pairs: Pairs, random: np.random.Generator) -> tuple[Images, Float[Tensor, "n hints"], Int[Tensor, " n"]]:
    """Return rough pictures, hints and classes of pairs, with some of them withheld at random.

    Args:
        pairs: The pairs.
        random: Source of randomness.

    Returns:
        Rough pictures, of which some are grey; hints, which are 0 for those; and classes from 1, of which some are 0.
    """
    count = len(pairs.labels)
    classes = pairs.labels + 1
    nameless = torch.from_numpy(random.random(count) < NAMELESS)
    blank = torch.from_numpy(random.random(count) < BLANK) & ~nameless
    rough = torch.where(blank[:, None, None, None], torch.full_like(pairs.rough, GREY), pairs.rough)
    return rough, pairs.hints * ~blank[:, None], classes * ~nameless


def glimpsed(images: Images, random: np.random.Generator) -> Images:
    """Return the pictures shifted, mirrored or not, brighter or darker, and with noise; differentiable.

    The critic and the reader get pictures in this form. It keeps them from memorising a small training set, and the
    generator from exploiting details that they see in one position only.

    Reference:
        Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020.
    """
    side = images.shape[-1]
    far = side // 8
    padded = F.pad(images, (far, far, far, far), mode="replicate")
    top, left = random.integers(2 * far + 1, size=2)
    seen = padded[..., top : top + side, left : left + side]
    if random.random() < 0.5:
        seen = seen.flip(-1)
    light = torch.from_numpy(random.uniform(0.8, 1.2, (len(images), 1, 1, 1)).astype(np.float32))
    grain = torch.from_numpy(random.standard_normal(images.shape, dtype=np.float32))
    return seen * light + float(random.uniform(0, 0.06)) * grain


class AuxiliaryClassifier(nn.Module):
    """Tells the class of a picture from another network's maps; it is trained beside the generator and not kept.

    Args:
        classes: Number of classes.
        eyes: (pictures in [0, 1]) -> that network's maps; it is not trained.

    Reference:
        Odena, Olah and Shlens, Conditional Image Synthesis with Auxiliary Classifier GANs, ICML 2017.
    """

    def __init__(self, classes: int, eyes: Callable[[Images], Maps]) -> None:
        super().__init__()
        self.eyes = eyes
        with torch.no_grad():
            size = self._pooled(torch.zeros((1, 3, 64, 64))).shape[1]
        self.last = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, classes))

    def _pooled(self, images: Images) -> Float[Tensor, "n f"]:
        """Return the mean and the maximum of every map, for each picture."""
        maps = self.eyes(images)
        return torch.cat([pool for m in maps for pool in (m.mean((2, 3)), m.amax((2, 3)))], 1).float()

    def forward(self, images: Images) -> Float[Tensor, "n classes"]:
        """Compute the scores of the classes before the softmax."""
        scores: Tensor = self.last(self._pooled(images))
        return scores
