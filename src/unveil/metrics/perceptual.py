"""LPIPS: distance between pictures as a network trained on people's judgements sees it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.files import shown
from unveil.core.state_dicts import read_weights, take
from unveil.core.types import Images, Metric, MetricFacts

DOWNLOAD = "download"
LEAST = 32  # pixels a side below which AlexNet's last maps are empty
CHUNK = 16
CONVOLUTIONS = (0, 3, 6, 8, 10)  # AlexNet's, by their number among its `features`
CHECKSUM = "35a8ec1ddf17"
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
    """The metric with AlexNet, version 0.1: 0 for equal pictures; a low value means leakage.

    Args:
        weights: A file: .npz with conv0 to conv4 (weight, bias) and lin0 to lin4 (weight), or a .pth of torchvision's
            AlexNet or of the whole `lpips.LPIPS`. Or `download`: the package fetches them.

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
    """Pictures as points whose squared distance is LPIPS, for finding the nearest of many.

    LPIPS is a weighted sum of squared differences of normalised maps; with the roots of the weights in the maps it is
    the plain squared distance. About 150,000 numbers for a picture of 128 pixels.

    Args:
        weights: As for `lpips`.
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
    """Float32 on the CPU, where the network is, in three channels."""
    return images.detach().cpu().float().expand(-1, 3, -1, -1)


def network(path: Path | None) -> Any:
    """The network of the package `lpips` with the weights of a file; None for those that it fetches itself.

    Raises:
        UsageError: As for `lpips`.
    """
    given = None if path is None else _read(path)
    try:
        import lpips as package
    except ImportError:
        raise UsageError(f"lpips: the package is not installed; {HOW}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision as older versions were called
        try:
            net = package.LPIPS(net="alex", version="0.1", pnet_rand=path is not None, verbose=False)
        except OSError as error:
            raise UsageError(
                f"lpips: AlexNet's weights cannot be fetched: {error}; give --lpips-weights FILE"
            ) from None
    if path is not None and given is not None:
        _fill(net, given, path)
    found = checksum(net)
    if found != CHECKSUM:
        where = "what was fetched" if path is None else shown(path)
        raise UsageError(
            f"lpips: {where} does not hold the weights of LPIPS 0.1 with AlexNet (checksum {found}, not {CHECKSUM}); "
            "take the file from its official source again"
        )
    return net.eval()


def _fill(net: Any, given: Mapping[str, Any], path: Path) -> None:
    """Put the weights of a file into the network; `UsageError` where one is missing or of another shape."""
    own = net.state_dict()
    places = {
        f"conv{i}.{kind}": _named(own, f".{number}.{kind}")
        for i, number in enumerate(CONVOLUTIONS)
        for kind in ("weight", "bias")
    }
    if any(name.startswith("lin") for name in given):  # else those that the package carries
        places |= {f"lin{i}.weight": _named(own, f"lin{i}.model.1.weight") for i in range(len(CONVOLUTIONS))}
    for name, tensor in places.items():
        tensor.copy_(take(given, name, tensor.shape, f"lpips: {shown(path)}", fix=OTHERS))


def checksum(net: Any) -> str:
    """Twelve characters that change with any weight."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        if "scaling" not in name and not name.startswith("lins."):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _named(state: Mapping[str, Tensor], ending: str) -> Tensor:
    return next(tensor for name, tensor in state.items() if name.endswith(ending))


def _read(path: Path) -> Mapping[str, Any]:
    """Tensors by the names of the .npz, whatever the file calls them."""
    found = read_weights(path, "lpips", fix="give an .npz or a .pth of weights", absent=HOW)
    if path.suffix == ".npz":
        return found
    names = {}
    for name, value in found.items():
        *_, number, kind = ("", *name.rsplit(".", 2))
        if name.startswith(("features.", "net.")) and number.isdigit() and int(number) in CONVOLUTIONS:
            names[f"conv{CONVOLUTIONS.index(int(number))}.{kind}"] = value
        elif name.startswith("lin") and name.endswith(".model.1.weight") and not name.startswith("lins."):
            names[f"{name.partition('.')[0]}.weight"] = value
    return names
