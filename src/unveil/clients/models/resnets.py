"""Residual networks that come with unveil: the paper's ResNet-18 without BatchNorm, and ResNet-9 with it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import (
    AdaptiveMaxPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Identity,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
)

from unveil.clients.models.checks import check_size
from unveil.clients.models.factories import Shape


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


def resnet9(image_shape: Shape, classes: int) -> Module:
    """ResNet-9: eight 3 x 3 convolutions with BatchNorm, two identity shortcuts, and one bias-free Linear layer.

    Layer by layer, where *unit* is a convolution without bias (stride 1, padding 1), BatchNorm and ReLU, and the map is
    that of pictures of 32 x 32:

    - the stem, a unit of 64 channels: 64 x 32 x 32;
    - a unit of 128 channels and 2 x 2 max-pooling: 128 x 16 x 16;
    - a residual block, two units of 128 channels beside the identity: 128 x 16 x 16;
    - a unit of 256 channels and 2 x 2 max-pooling: 256 x 8 x 8;
    - a unit of 512 channels and 2 x 2 max-pooling: 512 x 4 x 4;
    - a residual block, two units of 512 channels beside the identity: 512 x 4 x 4;
    - the maximum of each map, 512 features, and a Linear layer without bias.

    The paper names its victim ResNet-9 without a table of layers; this is the usual network of that name, made for fast
    training on CIFAR-10 (Page, How to Train Your ResNet, 2018). It keeps BatchNorm, so the local training's `mode`
    matters: in `eval` mode BatchNorm applies its running statistics, mean 0 and variance 1 before any training.

    Args:
        image_shape: (channels, height, width), at least 8 x 8 pixels.
        classes: Number of classes.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016. Yue et al., Gradient Obfuscation Gives a
        False Sense of Security in Federated Learning, USENIX Security 2023 (as a victim).
    """
    check_size("resnet9", image_shape, least=8)
    return Sequential(
        _unit(image_shape[0], 64),
        _unit(64, 128),
        MaxPool2d(2),
        _Beside(128),
        _unit(128, 256),
        MaxPool2d(2),
        _unit(256, 512),
        MaxPool2d(2),
        _Beside(512),
        AdaptiveMaxPool2d(1),
        Flatten(),
        Linear(512, classes, bias=False),
    )


def _unit(channels: int, out: int) -> Module:
    return Sequential(Conv2d(channels, out, 3, padding=1, bias=False), BatchNorm2d(out), ReLU())


class _Beside(Module):
    """Two units beside the identity; no ReLU behind the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = Sequential(_unit(channels, channels), _unit(channels, channels))

    def forward(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n channels h w"]:
        change: Float[Tensor, "n channels h w"] = self.branch(x)
        return x + change


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
