"""A vision transformer small enough for tests, and the attack on pictures that it was given."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from seeds import seeded, shifted
from unveil.attacks import parse
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.protocols import Knowledge, LocalTraining
from unveil.core.reconstruction import Reconstruction
from unveil.core.update import Update
from unveil.obfuscations import parse as obfuscation_of

SHAPE = (3, 16, 16)
Layout = Literal["rows", "no batch axis", "map", "fixed"]


class SmallViT(nn.Module):
    """Patches of 4 px, width 32, one block with LayerNorm before attention."""

    def __init__(
        self, *, linear: bool = False, class_token: bool = True, layout: Layout = "rows", frozen: bool = False
    ) -> None:
        super().__init__()
        width, count = 32, 16 + class_token
        self.linear, self.layout = linear, layout
        self.embedding: nn.Module = nn.Linear(48, width) if linear else nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width)) if class_token else None
        shape = {"rows": (1, count, width), "no batch axis": (count, width), "map": (1, width, 4, 4)}
        positions = 0.1 * torch.randn(shape.get(layout, (1, count, width)))
        if layout == "fixed":
            self.register_buffer("positions", positions)
        else:
            self.positions = nn.Parameter(positions, requires_grad=not frozen)
        self.block = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        mean, spread = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
        images = (images - mean.to(images)[:, None, None]) / spread.to(images)[:, None, None]
        if self.linear:
            cut = images.reshape(-1, 3, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 48)
            tokens = self.embedding(cut)
        else:
            maps = self.embedding(images)
            tokens = (maps + self.positions if self.layout == "map" else maps).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], 1)
        tokens = tokens if self.layout == "map" else tokens + self.positions
        found: Tensor = self.head(self.block(tokens).mean(1))
        return found


def small(*, linear: bool = False, class_token: bool = True, layout: Layout = "rows", frozen: bool = False) -> SmallViT:
    with torch.random.fork_rng():
        torch.manual_seed(shifted())
        return SmallViT(linear=linear, class_token=class_token, layout=layout, frozen=frozen).eval()


def attacked(
    model: nn.Module,
    images: Tensor,
    *,
    training: LocalTraining | None = None,
    sent_through: str = "none",
    labels_known: bool = True,
    steps: int = 2,
) -> Reconstruction:
    training, labels = training or FedSGD(), torch.arange(len(images)) + 3
    shape = (images.shape[1], images.shape[2], images.shape[3])
    obfuscation = obfuscation_of(sent_through)
    received = obfuscation(Update(training(model, Batch(images, labels))), generator=seeded(1))
    knowledge = Knowledge(
        training=training,
        image_shape=shape,
        num_images=len(images),
        classes=10,
        labels=labels if labels_known else None,
        obfuscation=obfuscation,
    )
    return parse(f"unveil:steps={steps}")(model, received, knowledge, generator=seeded(2))
