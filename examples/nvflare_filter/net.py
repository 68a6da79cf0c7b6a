"""The network that the clients train, for pictures of 3 x 32 x 32 and 10 classes."""

import torch
from torch import nn


class Net(nn.Module):
    """Two convolutions and three Linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 5, padding=2, stride=2), nn.ReLU(), nn.Conv2d(12, 24, 5, padding=2, stride=2), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Linear(24 * 8 * 8, 120), nn.ReLU(), nn.Linear(120, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, n x 10."""
        return self.head(self.features(x).flatten(1))
