"""The models that come with unveil: the networks that ROG attacks.

All start from PyTorch's default initialisation and take pictures in [0, 1]; normalisation belongs to the model. No ReLU
works in place, because an attack differentiates through the client's gradient and needs the values before the ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential

from unveil.clients.models.checks import check_size
from unveil.clients.models.factories import Shape
from unveil.clients.models.resnets import resnet9, resnet18


def lenet(image_shape: Shape, classes: int) -> Module:
    """ROG's LeNet: two 5 x 5 convolutions with pooling, then two Linear layers without bias.

    Args:
        image_shape: (channels, height, width), at least 4 x 4 pixels.
        classes: Number of classes.

    Reference:
        Yue et al., Gradient Obfuscation Gives a False Sense of Security in Federated Learning, USENIX
        Security 2023.
    """
    check_size("lenet", image_shape, least=4)
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
    check_size("vgg7", image_shape, least=8)
    channels, height, width = image_shape
    layers: list[Module] = []
    for block in (64, 128, 256):
        layers += [Conv2d(channels, block, 3, padding=1), ReLU()]
        layers += [Conv2d(block, block, 3, padding=1), ReLU(), MaxPool2d(2)]
        channels = block
    return Sequential(*layers, Flatten(), Linear(256 * (height // 8) * (width // 8), classes, bias=False))


CATALOGUE: Mapping[str, Callable[[Shape, int], Module]] = {
    "lenet": lenet,
    "vgg7": vgg7,
    "resnet9": resnet9,
    "resnet18": resnet18,
}
