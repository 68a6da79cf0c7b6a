"""PRECODE: a variational bottleneck in front of a network's last layer, as a defence that is part of the model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Linear, Module

from unveil.clients.models.factories import ModelName, Shape, call, imported
from unveil.clients.models.zoo import CATALOGUE
from unveil.core.bounds import whole
from unveil.core.errors import UsageError
from unveil.core.usercode import running, unchanged


def precode(image_shape: Shape, classes: int, *, model: object = "lenet", latents: object = 256) -> Module:
    """A network with PRECODE's variational bottleneck in front of its last Linear layer.

    The features z that come into the last layer are encoded by a Linear layer into mean m and log-variance v of
    `latents` normal variables, one sample ``m + exp(v / 2) e`` with standard normal e is drawn for each picture, and a
    Linear layer decodes it into as many features as before, which the last layer gets. Gradients of the layers before
    depend on e.

    The noise e is drawn in `eval` mode too, since the client trains in either. Attackers take it for 0, its mean,
    unless they are granted the client's draws (`Knowledge.draws`).

    The network's own weights are those that it starts with without the bottleneck. In place of the last layer there is
    now a module with the layers `encode`, `decode` and `last`, so that 9.weight of LeNet is called 9.last.weight.

    The loss is cross-entropy alone. The paper adds, with a small weight, the divergence of the latents from a standard
    normal distribution; a local training here has no place for a loss of the model's own, so that term is left out.

    Args:
        image_shape: (channels, height, width).
        classes: Number of classes.
        model: The network: a name that comes with unveil, or `package.module:factory?key=value`. Its last layer has to
            be a Linear layer that is run once, on one row of features for each picture, and whose output is the logits.
        latents: Number k of latent variables, at least 1; the paper's is 256.

    Raises:
        UsageError: The network cannot be built, or does not end in a Linear layer.

    Reference:
        Scheliga, Maeder and Seeland, PRECODE - A Generic Model Extension to Prevent Deep Gradient Leakage, WACV 2022.
    """
    if not isinstance(latents, int) or isinstance(latents, bool):
        raise UsageError(f"precode: expected latents to be a whole number, got {latents!r}; the paper's is 256")
    whole("precode", "latents", latents, 1, 1_000_000, "the paper's is 256")
    if not isinstance(model, str):
        raise UsageError(f"precode: expected model to be the name of a network, got {model!r}; write model=lenet")
    named = ModelName.parse(model)
    if named.name in CATALOGUE:
        factory: Any = CATALOGUE[named.name]
    else:
        with unchanged(0):
            factory = imported(named, CATALOGUE)
    network = call(named, factory, image_shape=image_shape, classes=classes).eval()
    name = _last_layer(network, named, image_shape)
    parent, _, own = name.rpartition(".")
    last = network.get_submodule(name)
    assert isinstance(last, Linear)
    setattr(network.get_submodule(parent), own, Bottleneck(last, latents))
    return network


def wraps_own(named: ModelName) -> bool:
    """Return whether a name is PRECODE around a network of the user's, not around one that comes with unveil."""
    inner = named.arguments.get("model")
    return named.name == "precode" and isinstance(inner, str) and ModelName.parse(inner).name not in CATALOGUE


class Bottleneck(Module):
    """A last layer behind a variational bottleneck; see `precode`.

    Args:
        last: The last layer.
        latents: Number of latent variables.
    """

    def __init__(self, last: Linear, latents: int) -> None:
        super().__init__()
        device, dtype = last.weight.device, last.weight.dtype
        self.encode = Linear(last.in_features, 2 * latents, device=device, dtype=dtype)
        self.decode = Linear(latents, last.in_features, device=device, dtype=dtype)
        self.last = last

    def forward(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "rows classes"]:
        """Return the logits of features, of which one sample is drawn for each row.

        An attack that watches the network may put other rows in between, so there may be more logits than features.
        """
        mean, log_variance = self.encode(features).chunk(2, dim=1)
        sample = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        logits: Float[Tensor, "rows classes"] = self.last(self.decode(sample))
        return logits


def _last_layer(network: Module, named: ModelName, image_shape: Shape) -> str:
    """Return the name of the Linear layer whose output is the network's.

    Raises:
        UsageError: There is none, or it cannot stand behind a bottleneck.
    """
    who = f"model 'precode': {str(named)!r}"
    calls: dict[Module, list[tuple[Any, Any]]] = {}

    def keep(layer: Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.setdefault(layer, []).append((inputs[0], output))

    names: dict[Module, str] = {
        layer: name for name, layer in network.named_modules() if name and type(layer) is Linear
    }
    hooks = [layer.register_forward_hook(keep) for layer in names]
    try:
        with torch.no_grad(), running(f"{who}: its forward on 2 pictures", "change size or channels, or the model"):
            logits = network(torch.zeros(2, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    for layer, ((features, output), *others) in calls.items():
        if output is logits and not others and features.ndim == 2:
            return names[layer]
    raise UsageError(
        f"{who} does not end in a Linear layer that gives the logits of one row of features a picture; "
        "PRECODE's bottleneck stands in front of such a layer, take a model that has one"
    )
