"""The victims: the networks that unveil brings (`zoo`), and any network of the user's (`factories`)."""

from __future__ import annotations

import torch
from torch.nn import DataParallel, Module
from torch.nn.parallel import DistributedDataParallel

from unveil.clients.models.checks import check_kind, check_outputs, check_trained
from unveil.clients.models.factories import CLASSES, ModelName, Shape, call, imported, takes_any
from unveil.clients.models.zoo import CATALOGUE, lenet, resnet18, vgg7
from unveil.core.errors import UsageError
from unveil.core.usercode import running, unchanged

__all__ = ["CATALOGUE", "ModelName", "build_model", "lenet", "resnet18", "vgg7"]

MOST_WEIGHTS = 500_000_000
"""Of a network that unveil brings: 2 GB, of which an attack needs several copies."""


def build_model(name: str | ModelName, *, image_shape: Shape, classes: int, seed: int) -> Module:
    """Build a victim, in eval mode, and check that it fits the pictures and the labels.

    Args:
        name: A name in the catalogue, or `package.module:factory` of the user's, importable from the current
            directory; `?key=value&key=value` behind it are arguments of the factory. Of `image_shape`, `classes`
            (also called `num_classes`), `in_channels` and `image_size`, the factory is given those that it names. A
            network that stands there ready is copied, and its weights are its own.
        image_shape: (channels, height, width).
        classes: Number of classes; the model may have more outputs, not fewer.
        seed: Seed of the initial weights; the global random state stays as it was.

    Raises:
        UsageError: An unknown name, a factory that cannot be imported or called, a model that does not fit.
    """
    named = ModelName.parse(name) if isinstance(name, str) else name
    who = f"model {str(named)!r}"
    if named.name in CATALOGUE:
        _refuse_giants(named, image_shape, classes)
        factory = CATALOGUE[named.name]
    else:
        with unchanged(0):  # a network built on import is the same in every client
            factory = imported(named, CATALOGUE)
    with unchanged(seed):
        model = _unwrapped(call(named, factory, image_shape=image_shape, classes=classes)).eval()
        check_kind(named, model)
        with running(f"{who}: bringing it to the CPU", "let the factory build it there"):
            model = model.to("cpu")
    shape = " x ".join(map(str, image_shape))
    with (
        unchanged(seed),  # lazy layers draw their weights here
        running(f"{who}: its forward on a batch of 2 pictures of {shape}", "change size or channels, or the model"),
        torch.no_grad(),
    ):
        output = model(torch.zeros(2, *image_shape))
    classes_unknown = takes_any(factory) and not set(CLASSES) & set(named.arguments)
    check_outputs(named, output, 2, classes, classes_unknown=classes_unknown)
    check_trained(named, model)
    return model


def _refuse_giants(named: ModelName, image_shape: Shape, classes: int) -> None:
    """Count the weights before any is drawn."""
    try:
        with torch.device("meta"):
            network = call(named, CATALOGUE[named.name], image_shape=image_shape, classes=classes)
        weights = sum(parameter.numel() for parameter in network.parameters())
    except UsageError as error:
        if not isinstance(error.__cause__, (RuntimeError, OverflowError)):
            raise
        weights = MOST_WEIGHTS + 1  # more than torch can count
    if weights > MOST_WEIGHTS:
        shape = " x ".join(map(str, image_shape))
        raise UsageError(
            f"model {str(named)!r}: for {shape} pictures and {classes} classes it has more than {MOST_WEIGHTS:,} "
            "weights; lower size or classes, or take another model"
        )


def _unwrapped(model: Module) -> Module:
    """The network inside what spreads it over devices or compiles it: neither can run with other weights."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif isinstance(compiled, Module):
            model = compiled
        else:
            return model
