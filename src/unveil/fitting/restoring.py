"""Training a restorer: faithful, for the highest PSNR, or sharp, for pictures that look good to people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.core.types import Images
from unveil.enhancers.restorer import Restorer
from unveil.fitting.degrade import Degrader
from unveil.fitting.loop import Losses, contact_sheet
from unveil.fitting.losses import Critic, Likeness, critic_loss, decibels, surprise
from unveil.fitting.pairs import Pairs
from unveil.fitting.store import PairStore
from unveil.metrics.pixel import psnr

FORGET = 0.15  # share of the pictures whose hints are set to 0, so that it learns to work for attacks without hints
CHEAP = 0.25  # share of the training, its first part, that uses the cheap degradation if there is one
SHOWN = 8  # pictures on a contact sheet

Setting = Literal["faithful", "sharp"]


@dataclass(kw_only=True, eq=False)
class RestorerTask:
    """A restorer in training; see `TrainingTask`.

    Args:
        network: The restorer, new or to be trained further.
        store: Pairs from real attacks.
        setting: `faithful` lowers the squared error; `sharp` also the distance in another network's maps, and is
            trained against a critic.
        degrader: The cheap degradation for the first part of the training; None to use real attacks throughout.
        likeness: The distance in another network's maps, for `sharp`.
        batch: Pictures in each step.
        crop: Largest side in pixels; larger pictures are cropped.
        critic: The critic, for `sharp`.
    """

    network: Restorer
    store: PairStore
    setting: Setting = "faithful"
    degrader: Degrader | None = None
    likeness: Likeness | None = None
    batch: int = 32
    crop: int = 64
    critic: Critic = field(default_factory=Critic)

    def __post_init__(self) -> None:
        self.network.to(memory_format=torch.channels_last)

    @property
    def networks(self) -> Mapping[str, Module]:
        """See `TrainingTask`."""
        restorer: dict[str, Module] = {"restorer": self.network}
        return restorer if self.setting == "faithful" else {**restorer, "critic": self.critic}

    def losses(self, share: float, *, random: np.random.Generator) -> Losses:
        """See `TrainingTask`."""
        if self.degrader is not None and share < CHEAP:
            pairs = self.degrader.draw(self.batch, random=random)
        else:
            pairs = self.store.draw(self.batch, crop=self.crop, random=random)
        known = torch.from_numpy(random.random((len(pairs.hints), 1)) > FORGET)
        with torch.autocast("cpu", torch.bfloat16):
            restored, expected = self.network(pairs.rough, pairs.hints * known)
        fidelity = decibels(restored, pairs.truth) + 0.05 * surprise(restored, pairs.truth, expected)
        if self.setting == "faithful" or self.likeness is None:
            return {"restorer": fidelity}
        with torch.autocast("cpu", torch.bfloat16):
            unlike = self.likeness(restored, pairs.truth).mean()
            judged = self.critic(restored)
            critic = critic_loss(self.critic(pairs.truth).float(), self.critic(restored.detach()).float())
        # Weights chosen on validation PSNR and pictures, not on LPIPS.
        return {"restorer": fidelity + unlike.float() - 0.03 * judged.float().mean(), "critic": critic}

    def judge(self, network: Module) -> tuple[dict[str, float], Float[Tensor, "3 h w"]]:
        """Score the averaged network; see `TrainingTask`.

        Returns:
            The mean PSNR in dB of rough and of restored pictures, and the gain for each obfuscation; and a contact
            sheet. Each of its columns shows one picture: rough, restored, and true.
        """
        gains: dict[str, list[float]] = defaultdict(list)
        shown: list[Tensor] = []
        for pairs in self.store.validation:
            restored = restore(network, pairs)
            before, after = psnr(pairs.truth, pairs.rough), psnr(pairs.truth, restored.clamp(0, 1))
            gains["rough"] += before.tolist()
            gains["restored"] += after.tolist()
            gains[f"gain {pairs.made['obfuscation']}"] += (after - before).tolist()
            if pairs.truth.shape[-1] == 64 and len(shown) < SHOWN:
                shown.append(torch.cat([pairs.rough[0], restored[0].clamp(0, 1), pairs.truth[0]], 1))
        sheet = contact_sheet(shown) if shown else torch.zeros(3, 1, 1)
        return {name: round(float(np.mean(values)), 3) for name, values in gains.items()}, sheet


def restore(network: Module, pairs: Pairs) -> Images:
    """Return the pictures that the network restores from the rough ones, not clamped."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        restored: Tensor = network(pairs.rough, pairs.hints)[0]
    return restored.float()
