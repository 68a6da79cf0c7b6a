"""A network of your own with all that belongs to it: arguments, trained weights, and its normalisation.

    python examples/own_model.py                 # trains it for a moment, and writes own_model.safetensors
    unveil audit examples/own_model.toml         # audits one of its updates

The audit file beside this one names the network below with its arguments, the file of weights, and the mean and
standard deviation of the pictures that it was trained with. The network is written as for training: it takes
normalised pictures and knows nothing of unveil.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

MEAN, STD = 0.45, 0.25


class Net(nn.Module):
    """Two convolutions with BatchNorm and dropout, then one Linear layer."""

    def __init__(self, num_classes: int, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.LazyLinear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised pictures."""
        features: Tensor = self.features(x)
        logits: Tensor = self.head(self.dropout(features.flatten(1)))
        return logits


def main() -> None:
    """Train for a few steps on noise, where you would train on your pictures, and keep the weights."""
    torch.manual_seed(0)
    model = Net(num_classes=14, width=16, dropout=0.2)
    images, labels = torch.rand(32, 3, 24, 32), torch.arange(32) % 14
    model(images)  # a lazy layer learns its size here
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model((images - MEAN) / STD), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = Path(__file__).with_suffix(".safetensors")
    save_file(model.state_dict(), path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
