"""LPIPS: a distance between pictures, computed by a network that was trained on people's judgements of likeness."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.files import shown
from unveil.core.metric import Metric, MetricFacts
from unveil.core.state_dicts import read_weights, take
from unveil.core.types import Images, Tensors

DOWNLOAD = "download"
LEAST = 32  # smallest side of a picture, pixels; with fewer, AlexNet's last maps are empty
CHUNK = 16  # pictures in one run of the network
CONVOLUTIONS = (0, 3, 6, 8, 10)  # indices of AlexNet's convolutions among its `features`
SHAPES: dict[str, tuple[int, ...]] = {
    "conv0.weight": (64, 3, 11, 11),
    "conv1.weight": (192, 64, 5, 5),
    "conv2.weight": (384, 192, 3, 3),
    "conv3.weight": (256, 384, 3, 3),
    "conv4.weight": (256, 256, 3, 3),
    **{f"conv{i}.bias": (width,) for i, width in enumerate((64, 192, 384, 256, 256))},
}
LINEAR = {f"lin{i}.weight": (1, width, 1, 1) for i, width in enumerate((64, 192, 384, 256, 256))}
"""Of AlexNet's convolutions, and of the linear layers of LPIPS 0.1 on their maps."""

CHECKSUM = "35a8ec1ddf17"  # `checksum` of the network with the weights of LPIPS 0.1
OTHERS = "give the weights of LPIPS 0.1 with AlexNet"
HOW = "pip install 'unveil[perceptual]' and give --lpips-weights FILE, or --lpips-weights download where there is a net"

LPIPS = MetricFacts(
    name="lpips",
    title="LPIPS",
    digits=3,
    leak="low",
    description="distance as people see it (AlexNet, version 0.1)",
)


def lpips(weights: str | Path) -> Metric:
    """Return LPIPS 0.1 with AlexNet as a metric: 0 for equal pictures, no unit; a low value means leakage.

    Args:
        weights: A file: .npz with conv0 to conv4 (weight, bias) and lin0 to lin4 (weight), or a .pth of torchvision's
            AlexNet or of the whole `lpips.LPIPS`. Or `download`: the package fetches the weights.

    Raises:
        UsageError: The package is missing, or the file is missing, damaged or holds other weights.

    Reference:
        Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018.
    """
    net = network(None if str(weights) == DOWNLOAD else Path(weights))

    def score(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
        height, width = originals.shape[2:]
        if min(height, width) < LEAST:
            raise UsageError(
                f"lpips: expected pictures of at least {LEAST} x {LEAST}, got {height} x {width}; "
                "use larger pictures or leave --lpips-weights out"
            )
        with torch.no_grad():
            parts = zip(torch.split(originals, CHUNK), torch.split(rebuilt, CHUNK), strict=True)
            values = [net(_coloured(a), _coloured(b), normalize=True).flatten() for a, b in parts]
        return torch.cat(values).double().clamp_min(0).cpu()

    return LPIPS.scored(score)


def perceptual_embedding(weights: str | Path) -> Callable[[Images], Float[Tensor, "n f"]]:
    """Return a function from pictures to points whose squared distance is LPIPS, for finding the nearest of many.

    LPIPS is a weighted sum of squared differences of normalised maps. The points are these maps times the square roots
    of the weights. A picture of 128 x 128 pixels gives about 150,000 coordinates.

    Args:
        weights: As for `lpips`.

    Raises:
        UsageError: As for `lpips`.
    """
    net = network(None if str(weights) == DOWNLOAD else Path(weights))

    def maps(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        found = net.net(net.scaling_layer(2 * images - 1))
        points = []
        for x, linear in zip(found, net.lins, strict=True):
            length = x.square().sum(1, keepdim=True).sqrt() + 1e-10
            weight = linear.model[-1].weight[:, :, 0, 0].flatten()[:, None, None].clamp_min(0)
            points.append((x / length * weight.sqrt()).flatten(1) / (x.shape[2] * x.shape[3]) ** 0.5)
        return torch.cat(points, 1)

    def embed(images: Images) -> Float[Tensor, "n f"]:
        with torch.no_grad():
            return torch.cat([maps(_coloured(part)) for part in torch.split(images, CHUNK)])

    return embed


def _coloured(images: Float[Tensor, "n _ h w"]) -> Float[Tensor, "n 3 h w"]:
    """Return the pictures as float32 on the CPU, where the network is, with three channels."""
    return images.detach().cpu().float().expand(-1, 3, -1, -1)


def network(path: Path | None) -> Any:
    """Build the network of the package `lpips`, in eval mode.

    Args:
        path: A file of weights, as for `lpips`; None to let the package fetch them.

    Raises:
        UsageError: As for `lpips`.
    """
    if importlib.util.find_spec("lpips") is None:
        raise UsageError(f"lpips: the package is not installed; {HOW}")
    given = None if path is None else _read(path)  # before the package is loaded, which takes 2 s and 400 MiB
    import lpips as package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision as older versions were called
        try:
            net = package.LPIPS(net="alex", version="0.1", pnet_rand=path is not None, verbose=False)
        except OSError as error:
            raise UsageError(
                f"lpips: AlexNet's weights cannot be fetched: {error}; give --lpips-weights FILE"
            ) from None
    if given is not None:
        _fill(net, given)
    found = checksum(net)
    if found != CHECKSUM:
        where = "what was fetched" if path is None else shown(path)
        raise UsageError(
            f"lpips: {where} does not hold the weights of LPIPS 0.1 with AlexNet (checksum {found}, not {CHECKSUM}); "
            "take the file from its official source again"
        )
    return net.eval()


def _fill(net: Any, given: Tensors) -> None:
    """Copy the weights of a file into the network."""
    own = net.state_dict()
    for name, tensor in given.items():
        layer, kind = name.split(".")
        number = int(layer[-1])
        ending = f".{CONVOLUTIONS[number]}.{kind}" if layer.startswith("conv") else f"{layer}.model.1.weight"
        _named(own, ending).copy_(tensor)


def checksum(net: Any) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        if "scaling" not in name and not name.startswith("lins."):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _named(state: Tensors, ending: str) -> Float[Tensor, " ..."]:
    """Return the first tensor whose name has this ending."""
    return next(tensor for name, tensor in state.items() if name.endswith(ending))


def _read(path: Path) -> Tensors:
    """Read a file of weights.

    Returns:
        The tensors of AlexNet's convolutions, and those of the linear layers if the file has any, else the network
        keeps those that come with the package.

    Raises:
        UsageError: The file is missing or damaged, or a tensor is missing or has another shape.
    """
    found = read_weights(path, "lpips", fix="give an .npz or a .pth of weights", absent=HOW)
    given = found if path.suffix == ".npz" else _renamed(found)
    wanted = SHAPES | (LINEAR if any(name.startswith("lin") for name in given) else {})
    return {name: take(given, name, shape, f"lpips: {shown(path)}", fix=OTHERS) for name, shape in wanted.items()}


def _renamed(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors of a .pth under the names that an .npz has."""
    names = {}
    for name, value in found.items():
        *_, number, kind = ("", *name.rsplit(".", 2))
        if name.startswith(("features.", "net.")) and number.isdigit() and int(number) in CONVOLUTIONS:
            names[f"conv{CONVOLUTIONS.index(int(number))}.{kind}"] = value
        elif name.startswith("lin") and name.endswith(".model.1.weight") and not name.startswith("lins."):
            names[f"{name.partition('.')[0]}.weight"] = value
    return names
