"""The models that come with unveil: the networks that ROG attacks.

All start from PyTorch's default initialisation and take pictures in [0, 1]; normalisation belongs to the model. No ReLU
works in place, because an attack differentiates through the client's gradient and needs the values before the ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Conv2d, Flatten, Identity, Linear, MaxPool2d, Module, ReLU, Sequential

from unveil.core.errors import UsageError

Shape = tuple[int, int, int]


def lenet(image_shape: Shape, classes: int) -> Module:
    """ROG's LeNet: two 5 x 5 convolutions with pooling, then two Linear layers without bias.

    Args:
        image_shape: (channels, height, width), at least 4 x 4 pixels.
        classes: Number of classes.

    Reference:
        Yue et al., Gradient Obfuscation Gives a False Sense of Security in Federated Learning, USENIX
        Security 2023.
    """
    _check_size("lenet", image_shape, least=4)
    channels, height, width = image_shape
    return Sequential(
        Conv2d(channels, 32, 5, padding=2),
        ReLU(),
        MaxPool2d(2),
        Conv2d(32, 64, 5, padding=2),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Linear(64 * (height // 4) * (width // 4), 512, bias=False),
        ReLU(),
        Linear(512, classes, bias=False),
    )


def vgg7(image_shape: Shape, classes: int) -> Module:
    """VGG with 7 weight layers: three blocks of two 3 x 3 convolutions and pooling, then one Linear layer.

    The paper names its victim VGG-7 without a table of layers; this is our reading: widths 64, 128 and 256
    as in VGG, and, as in its ResNet-18, no BatchNorm and one bias-free Linear layer on the flattened map.

    Args:
        image_shape: (channels, height, width), at least 8 x 8 pixels.
        classes: Number of classes.

    Reference:
        Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015.
    """
    _check_size("vgg7", image_shape, least=8)
    channels, height, width = image_shape
    layers: list[Module] = []
    for block in (64, 128, 256):
        layers += [Conv2d(channels, block, 3, padding=1), ReLU()]
        layers += [Conv2d(block, block, 3, padding=1), ReLU(), MaxPool2d(2)]
        channels = block
    return Sequential(*layers, Flatten(), Linear(256 * (height // 8) * (width // 8), classes, bias=False))


def resnet18(image_shape: Shape, classes: int) -> Module:
    """ROG's ResNet-18: no BatchNorm, and one bias-free Linear layer on the flattened last map.

    A stem of stride 2, then stages of strides 1, 2, 2, 2: 128 pixels end in a map of 512 x 8 x 8. BatchNorm's
    shift is gone, so the convolutions keep their biases. It trains without BatchNorm because the default
    initialisation makes the residual branches small beside the identity, so that signal and gradient pass.

    Args:
        image_shape: (channels, height, width).
        classes: Number of classes.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
    """
    channels, height, width = image_shape
    blocks = [_Residual(64, 64, 1), _Residual(64, 64, 1)]
    for narrow, wide in ((64, 128), (128, 256), (256, 512)):
        blocks += [_Residual(narrow, wide, 2), _Residual(wide, wide, 1)]
    features = 512 * -(-height // 16) * -(-width // 16)
    return Sequential(
        Conv2d(channels, 64, 3, stride=2, padding=1),
        ReLU(),
        *blocks,
        Flatten(),
        Linear(features, classes, bias=False),
    )


class _Residual(Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.branch = Sequential(
            Conv2d(channels, out, 3, stride=stride, padding=1), ReLU(), Conv2d(out, out, 3, padding=1)
        )
        same = channels == out and stride == 1
        self.shortcut = Identity() if same else Conv2d(channels, out, 1, stride=stride)

    def forward(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n out a b"]:
        return torch.relu(self.branch(x) + self.shortcut(x))


CATALOGUE: Mapping[str, Callable[[Shape, int], Module]] = {"lenet": lenet, "vgg7": vgg7, "resnet18": resnet18}


def _check_size(name: str, image_shape: Shape, *, least: int) -> None:
    _, height, width = image_shape
    if min(height, width) < least:
        raise UsageError(
            f"model {name!r}: expected pictures of at least {least} x {least}, got {height} x {width}; "
            "raise size or take another model"
        )
