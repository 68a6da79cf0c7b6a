"""The networks of advice.toml, for pictures of 32 x 32 in [0, 1] and ten classes; nothing here knows of unveil."""

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = 0.5, 0.5


class Quickstart(nn.Module):
    """The network of Flower's quickstart: two convolutions and three Linear layers, 62,006 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, n x 10, of pictures n x 3 x 32 x 32."""
        x = F.max_pool2d(F.relu(self.conv1((x - MEAN) / STD)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class ResNet8(nn.Module):
    """A ResNet of three blocks with GroupNorm, which federated learning prefers to BatchNorm; 87,450 parameters.

    A stem of stride 2, and one Linear layer on the flattened last map of 64 x 4 x 4. GroupNorm as in Hsieh et al., The
    Non-IID Data Quagmire of Decentralized Machine Learning, ICML 2020.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, width)
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2))
        self.head = nn.Linear(4 * width * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, n x 10, of pictures n x 3 x 32 x 32."""
        x = self.blocks(F.relu(self.norm(self.stem((x - MEAN) / STD))))
        return self.head(x.flatten(1))


class Block(nn.Module):
    """Two 3 x 3 convolutions with GroupNorm beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, out)
        same = channels == out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the next maps."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))
