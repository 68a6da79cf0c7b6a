"""The numbers of a source's classes: those of the model where its class names are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from unveil.clients.pictures import Pictures
from unveil.core.errors import UsageError, nearest
from unveil.core.files import quoted


def renumbered(client: str, pictures: Pictures, class_names: Sequence[str]) -> Pictures:
    """Return the same pictures with labels that count the model's classes.

    Args:
        client: The client's name, for messages.
        pictures: The pictures, whose labels count the classes of their source.
        class_names: Name of each class of the model, in the order of its outputs.

    Raises:
        UsageError: A name is given twice, or a class of the pictures is not among them.
    """
    for name in class_names:
        if list(class_names).count(name) > 1:
            raise UsageError(f"client {client!r}: class_names has {quoted(name)} twice; keep one of them")
    numbers = {name: number for number, name in enumerate(class_names)}
    for label in dict.fromkeys(pictures.labels.tolist()):
        name = pictures.class_names[label]
        if name not in numbers:
            raise UsageError(
                f"client {client!r}: the pictures' class {quoted(name)} is not in class_names; "
                f"{nearest(name, list(class_names))}, or rename its folder or label"
            )
    labels = [numbers[pictures.class_names[label]] for label in pictures.labels.tolist()]
    return replace(pictures, labels=torch.tensor(labels), class_names=tuple(class_names))
