"""What every app of Flower has: a network, pictures and a training loop. Nothing here knows of unveil."""

import numpy as np
import torch
import torch.nn.functional as F
from skimage import data
from skimage.transform import resize
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PHOTOGRAPHS = (
    *("astronaut", "cat", "coffee", "retina", "rocket"),
    *("camera", "hubble_deep_field", "brick", "gravel", "grass"),
)
TILE, SIDE = 64, 32  # pixels
MOST = 50  # tiles of one photograph
MEAN, STD = 0.5, 0.5

Pictures = tuple[torch.Tensor, torch.Tensor]  # n x 3 x 32 x 32 in [0, 1], and n labels


class Net(nn.Module):
    """The network of Flower's quickstart: two convolutions and three Linear layers, 62,006 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, n x 10, of pictures n x 3 x 32 x 32."""
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def tiles() -> Pictures:
    """Tiles of photographs in the public domain, in [0, 1], on which something is to be seen, and whose each is."""
    images, labels = [], []
    for label, name in enumerate(PHOTOGRAPHS):
        photo = np.atleast_3d(getattr(data, name)())[..., :3] / 255
        found = []
        for top in range(0, photo.shape[0] - TILE + 1, TILE):
            for left in range(0, photo.shape[1] - TILE + 1, TILE):
                tile = np.broadcast_to(photo[top : top + TILE, left : left + TILE], (TILE, TILE, 3))
                if tile.std() > 0.12:
                    found.append(resize(tile, (SIDE, SIDE, 3), anti_aliasing=True))
        images += found[:: max(1, len(found) // MOST)][:MOST]
        labels += [label] * (len(images) - len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = torch.tensor(np.stack(images)[order]).permute(0, 3, 1, 2)
    return ((pixels * 255).round() / 255).float(), torch.tensor(labels)[order]


def load_data(pictures: Pictures, partition: int, partitions: int, round_: int, batch_size: int) -> DataLoader:
    """The pictures that a client has taken since the last round, one batch of them, normalised."""
    images, labels = pictures
    first = ((round_ - 1) * partitions + partition) * batch_size
    own = slice(first, first + batch_size)
    return DataLoader(TensorDataset((images[own] - MEAN) / STD, labels[own]), batch_size=batch_size, shuffle=True)


def train(net: Net, loader: DataLoader, epochs: int, lr: float) -> float:
    """SGD with momentum, as in Flower's quickstart; returns the mean loss."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    total = 0.0
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))
