"""A ResNet-20 for CIFAR-10 as a classifier, with its weights from a file.

He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unveil.core.files import shown
from unveil.core.state_dicts import read_weights, take
from unveil.core.types import Images, Tensors
from unveil.metrics.classifiers import CIFAR10, Classifier, from_network

WIDTHS, BLOCKS = (16, 32, 64), 3  # channels and residual blocks of each stage


def cifar10(path: Path) -> Classifier:
    """Return a ResNet-20 with the weights of a file as a classifier, for pictures of 32 to 64 pixels a side.

    Raises:
        UsageError: The file is missing, damaged, or of another network.
    """
    state = _state(path)

    def normalised(x: Float[Tensor, "*shape"], name: str) -> Float[Tensor, "*shape"]:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    def features(images: Images) -> Float[Tensor, "n f"]:
        x = normalised(F.conv2d(images, state["conv1.weight"], padding=1), "bn1").relu()
        for stage, width in enumerate(WIDTHS, 1):
            for block in range(BLOCKS):
                at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                y = normalised(F.conv2d(x, state[f"{at}.conv1.weight"], stride=stride, padding=1), f"{at}.bn1").relu()
                y = normalised(F.conv2d(y, state[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
                missing = (width - x.shape[1]) // 2  # the shortcut has no weights: zeros fill the new channels
                x = (F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, missing, missing)) + y).relu()
        return x.mean((2, 3))

    def head(x: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        return F.linear(x, state["linear.weight"], state["linear.bias"])

    return from_network(
        features,
        name="cifar10",
        names=CIFAR10,
        size=32,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        head=head,
        least=32,
        most=64,
    )


def _state(path: Path) -> Tensors:
    """Read the tensors of a ResNet-20 checkpoint; their names may start with `module.`."""
    what, fix = "classifier cifar10", "give the weights of a ResNet-20 for CIFAR-10"
    found = read_weights(path, what, fix=fix)
    found = {name.removeprefix("module."): value for name, value in found.items()}
    return {name: take(found, name, shape, f"{what}: {shown(path)}", fix=fix) for name, shape in _shapes()}


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and the shape of every tensor of a ResNet-20."""

    def convolution(name: str, wide: int, narrow: int, norm: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (wide, narrow, 3, 3)
        yield from ((f"{norm}.{kind}", (wide,)) for kind in ("weight", "bias", "running_mean", "running_var"))

    yield from convolution("conv1", WIDTHS[0], 3, "bn1")
    before = WIDTHS[0]
    for stage, width in enumerate(WIDTHS, 1):
        for block in range(BLOCKS):
            at = f"layer{stage}.{block}"
            yield from convolution(f"{at}.conv1", width, before, f"{at}.bn1")
            yield from convolution(f"{at}.conv2", width, width, f"{at}.bn2")
            before = width
    yield "linear.weight", (len(CIFAR10), WIDTHS[-1])
    yield "linear.bias", (len(CIFAR10),)
