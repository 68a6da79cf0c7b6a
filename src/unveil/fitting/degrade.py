"""A cheap stand-in for attacks: features with noise, decoded at once. For the first part of a training.

What a search of a hundred steps leaves behind is not quite this, which is why the last part learns from real attacks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator

from unveil.attacks.separation.decoder import Decoder, fit_decoder
from unveil.attacks.separation.heads.head import Head, read_head
from unveil.clients import training
from unveil.clients.models import build_model
from unveil.core.pixels import eight_bit
from unveil.core.reconstruction import FeatureFit
from unveil.enhancers.conditioning import hints_of
from unveil.fitting.pairs import Pairs, cut
from unveil.fitting.recipes import CLASSES
from unveil.fitting.sources import Source

WEAKEST, STRONGEST = -2.5, 0.3  # decades of noise, in units of the features' spread


class Degrader:
    """Draws pairs of training pictures and what a linear decoder makes of their noisy features.

    Args:
        source: The training pictures.
        sizes: Heights and widths of the pictures, pixels; what stands twice is drawn twice as often.
        victims: Random LeNets that are kept in turn for each size.
        crops: Share of the batches whose pictures are cut out of larger ones rather than reduced.
        seed: Seed of the LeNets.
    """

    def __init__(self, source: Source, *, sizes: Sequence[int], victims: int, crops: float, seed: int) -> None:
        self.source, self.sizes, self.crops = source, tuple(sizes), crops
        generator = Generator().manual_seed(seed)
        self.victims: dict[int, list[tuple[Head, Decoder]]] = {}
        for size in dict.fromkeys(sizes):
            self.victims[size] = []
            for number in range(victims):
                model = build_model("lenet", image_shape=(3, size, size), classes=CLASSES, seed=seed + number)
                head = read_head(model, (3, size, size), training=training.FedSGD())
                self.victims[size].append((head, fit_decoder(head, generator=generator)))

    def draw(self, count: int, *, random: np.random.Generator) -> Pairs:
        """Some pairs of one size; each picture has a noise of its own."""
        size = int(random.choice(self.sizes))
        head, decoder = self.victims[size][random.integers(len(self.victims[size]))]
        rows = random.integers(len(self.source), size=count)
        truth = cut(self.source.images(rows.tolist()), size, crop=random.random() < self.crops, random=random)
        with torch.no_grad():
            features = head.features(truth, rough=True)
            spread = float(features.std())
            noise = float(10 ** random.uniform(WEAKEST, STRONGEST))
            errors = torch.from_numpy(random.standard_normal(features.shape, dtype=np.float32))
            given = head.allowed(features + noise * spread * errors)
            rough = decoder(given, (noise * spread) ** 2)
            # From the features that an update would give, as an attack measures it; it knows no others.
            missed = (head.features(rough, rough=True) - given).square().mean(1).sqrt() / spread
        evidence = FeatureFit(noise=torch.full((count,), noise), miss=missed)
        labels = torch.from_numpy(self.source.labels[rows])
        rough = eight_bit(rough)
        return Pairs(rough=rough, truth=truth, hints=hints_of(evidence, count), labels=labels)
