"""The models of clients: those that come with unveil (`zoo`), and any network of the user's (`factories`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import DataParallel, Module
from torch.nn.parallel import DistributedDataParallel

from unveil.clients.models.checks import check_kind, check_outputs, check_trained
from unveil.clients.models.factories import CLASSES, Factory, ModelName, Shape, call, imported, takes_any
from unveil.clients.models.precode import precode, wraps_own
from unveil.clients.models.resnets import resnet9, resnet18
from unveil.clients.models.zoo import CATALOGUE as NETWORKS
from unveil.clients.models.zoo import lenet, vgg7
from unveil.core.errors import UsageError
from unveil.core.usercode import running, unchanged

__all__ = ["CATALOGUE", "ModelName", "build_model", "lenet", "precode", "resnet9", "resnet18", "vgg7"]

CATALOGUE: Mapping[str, Factory] = {**NETWORKS, "precode": precode}
"""The models that come with unveil by name, and PRECODE, which stands in another model."""

MOST_WEIGHTS = 500_000_000
"""Most weights of a network that comes with unveil: 2 GB of float32, of which an attack needs several copies."""


def build_model(name: str | ModelName, *, image_shape: Shape, classes: int, seed: int) -> Module:
    """Build a model, in eval mode, and check that it fits the pictures and the labels.

    Args:
        name: A name in the catalogue, or `package.module:factory`, which may be in the current directory. Arguments of
            the factory follow as `?key=value&key=value`. The factory also gets those of `image_shape`, `classes` (or
            `num_classes`), `in_channels` and `image_size` that are among its parameters. If the name leads to a network
            instead of a factory, the network is copied with its weights.
        image_shape: (channels, height, width).
        classes: Number of classes; the model may have more outputs, but not fewer.
        seed: Seed of the initial weights; the global random state does not change.

    Raises:
        UsageError: The name is unknown, the factory cannot be imported or called, or the model does not fit.
    """
    named = ModelName.parse(name) if isinstance(name, str) else name
    who = f"model {str(named)!r}"
    if named.name in CATALOGUE:
        if not wraps_own(named):
            _refuse_giants(named, image_shape, classes)
        factory = CATALOGUE[named.name]
    else:
        with unchanged(0):  # the same seed for all clients, because an import that builds a network runs only once
            factory = imported(named, CATALOGUE)
    with unchanged(seed):
        model = _unwrapped(call(named, factory, image_shape=image_shape, classes=classes)).eval()
        check_kind(named, model)
        with running(f"{who}: bringing it to the CPU", "let the factory build it there"):
            model = model.to("cpu")
    shape = " x ".join(map(str, image_shape))
    with (
        unchanged(seed),  # because lazy layers draw their weights in the first run
        running(f"{who}: its forward on a batch of 2 pictures of {shape}", "change size or channels, or the model"),
        torch.no_grad(),
    ):
        output = model(torch.zeros(2, *image_shape))
    classes_unknown = takes_any(factory) and not set(CLASSES) & set(named.arguments)
    check_outputs(named, output, 2, classes, classes_unknown=classes_unknown)
    check_trained(named, model)
    return model


def _refuse_giants(named: ModelName, image_shape: Shape, classes: int) -> None:
    """Raise a `UsageError` if a network that comes with unveil would have more than `MOST_WEIGHTS` weights."""
    try:
        with torch.device("meta"):
            network = call(named, CATALOGUE[named.name], image_shape=image_shape, classes=classes)
        weights = sum(parameter.numel() for parameter in network.parameters())
    except UsageError as error:
        if not isinstance(error.__cause__, (RuntimeError, OverflowError)):
            raise
        weights = MOST_WEIGHTS + 1  # the number of weights is too large for torch
    if weights > MOST_WEIGHTS:
        shape = " x ".join(map(str, image_shape))
        raise UsageError(
            f"model {str(named)!r}: for {shape} pictures and {classes} classes it has more than {MOST_WEIGHTS:,} "
            "weights; lower size or classes, or take another model"
        )


def _unwrapped(model: Module) -> Module:
    """Return the network without wrappers that spread it over devices or compile it, which need its own weights."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif isinstance(compiled, Module):
            model = compiled
        else:
            return model
