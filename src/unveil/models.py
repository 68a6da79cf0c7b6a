"""The victims: the networks ROG attacks, and any network of the user's.

All start from PyTorch's default initialisation and take pictures in [0, 1]; normalisation belongs to the
model. No ReLU works in place: an attack differentiates through the client's gradient, which needs
what it would overwrite.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Conv2d, Flatten, Identity, Linear, MaxPool2d, Module, ReLU, Sequential

from unveil.errors import UsageError, nearest

Shape = tuple[int, int, int]
Factory = Callable[..., Any]


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

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


CATALOGUE: Mapping[str, Factory] = {"lenet": lenet, "vgg7": vgg7, "resnet18": resnet18}


def build_model(name: str, *, image_shape: Shape, classes: int, seed: int) -> Module:
    """Build a victim, in eval mode, and check that it fits the pictures and the labels.

    Args:
        name: A name in the catalogue, or `package.module:factory` of the user's, importable from the current
            directory; of `image_shape` and `classes`, the factory is given those that it names as parameters.
        image_shape: (channels, height, width).
        classes: Number of classes; the model may have more outputs, not fewer.
        seed: Seed of the initial weights; the global random state stays as it was.

    Raises:
        UsageError: An unknown name, a factory that cannot be imported or called, a model that does not fit.
    """
    factory = CATALOGUE[name] if name in CATALOGUE else _imported(name)
    known = {"image_shape": image_shape, "classes": classes}
    settings = {key: known[key] for key in _parameters(name, factory) if key in known}
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        try:
            model = factory(**settings)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"model {name!r}: its factory raised {_told(error)}; call it in Python to find out why"
            ) from error
        if not isinstance(model, Module):
            raise UsageError(
                f"model {name!r}: expected the factory to return a torch.nn.Module, "
                f"got {type(model).__name__}; name a function that builds and returns the model"
            )
        model.eval()
        _check_output(name, model, image_shape, classes)
    return model


def _imported(name: str) -> Factory:
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(
            f"unknown model {name!r}; {nearest(name, list(CATALOGUE))} "
            "(a model of your own is named package.module:factory)"
        )
    if os.getcwd() not in sys.path:  # as `python -m` does, so that a user's own files are found
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(
            f"model {name!r}: cannot import {module_name!r}, {_told(error)}; "
            "run from the directory that holds it, or install it"
        ) from error
    found: Factory | None = getattr(module, attribute, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = nearest(attribute, names) if names else "define a function there that returns the model"
        raise UsageError(f"model {name!r}: module {module_name!r} has no factory {attribute!r}; {hint}")
    return found


def _parameters(name: str, factory: Factory) -> list[str]:
    """Names that the factory can be called with; everything it insists on must be among those we have."""
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # some built-in functions do not say; calling them without arguments will
        return []
    taken = []
    for key, parameter in parameters.items():
        by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        optional = parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if not optional and not (by_name and key in ("image_shape", "classes")):
            raise UsageError(
                f"model {name!r}: its factory asks for {key!r}, but is given only image_shape and classes; "
                f"give {key!r} a default or wrap it in a function of your own"
            )
        if by_name:
            taken.append(key)
    return taken


def _check_output(name: str, model: Module, image_shape: Shape, classes: int) -> None:
    shape = " x ".join(str(size) for size in image_shape)
    try:
        with torch.no_grad():
            output = model(torch.zeros(2, *image_shape))
    except Exception as error:
        raise UsageError(
            f"model {name!r}: cannot take a batch of {shape} pictures, {_told(error)}; "
            "change the size of the pictures or the model"
        ) from error
    fits = isinstance(output, Tensor) and output.ndim == 2 and len(output) == 2 and output.shape[1] >= classes
    if not fits:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(
            f"model {name!r}: its output does not fit the labels: for 2 pictures and {classes} classes "
            f"expected shape (2, {classes}) or wider, got {got}; "
            "give the model one output a class or set classes to match"
        )


def _check_size(name: str, image_shape: Shape, *, least: int) -> None:
    _, height, width = image_shape
    if min(height, width) < least:
        raise UsageError(
            f"model {name!r}: expected pictures of at least {least} x {least}, got {height} x {width}; "
            "raise size or take another model"
        )


def _told(error: Exception) -> str:
    """The error in one line: torch's go on for paragraphs."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
