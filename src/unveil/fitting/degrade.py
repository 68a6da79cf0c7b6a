"""The cheap degradation, which replaces attacks in the first part of a training: it decodes features with added noise.

An attack's search of a hundred steps leaves slightly other errors, so the last part of a training uses real attacks.
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

WEAKEST, STRONGEST = -2.5, 0.3  # log10 of the least and most noise, in units of the features' standard deviation


class Degrader:
    """Draws pairs of training pictures and of the pictures that a linear decoder computes from their noisy features.

    Args:
        source: The training pictures.
        sizes: Sides of the pictures in pixels; a size that is listed twice is drawn twice as often.
        victims: Number of random LeNets for each size.
        crops: Share of the batches whose pictures are cut out of larger ones; the others are reduced.
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
        """Return `count` pairs of one random size, with noise of one random strength."""
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
            # Measured against the noisy features, because an attack knows no others.
            missed = (head.features(rough, rough=True) - given).square().mean(1).sqrt() / spread
        evidence = FeatureFit(noise=torch.full((count,), noise), miss=missed)
        labels = torch.from_numpy(self.source.labels[rows])
        rough = eight_bit(rough)
        return Pairs(rough=rough, truth=truth, hints=hints_of(evidence, count), labels=labels)
