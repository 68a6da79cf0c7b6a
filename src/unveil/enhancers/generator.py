"""The semantic generator: a network that draws pictures of a given class from rough pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unveil.core.types import Images
from unveil.enhancers.conditioning import HINTS
from unveil.enhancers.unet import UNet

CODE = 128  # length of the code that scales and shifts the blocks
SKETCH = (32, 4, 4)  # shape of the sketch that is learned for each class: maps, height, width


class ClassConditionalGenerator(nn.Module):
    """Draws plausible pictures from rough pictures, their hints and their classes.

    Each block normalises its maps, and a code of the class and the hints then sets their mean and variance, so that the
    class has a strong effect. Each class also has a learned sketch, so that the network can draw from a grey picture
    too; the control from the labels alone needs that. Class 0 means an unknown class; `names[i]` is class i + 1.

    Args:
        names: The classes that it is trained on.
        widths: Channels at each scale; at the first, a place has 4 x 4 pixels.
        blocks: Residual blocks at each scale, both down and up.

    Reference:
        Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017; class-conditional
        normalisation: Dumoulin, Shlens and Kudlur, ICLR 2017, and Miyato and Koyama, ICLR 2018.
    """

    kind: ClassVar[str] = "generator"

    def __init__(self, *, names: Sequence[str], widths: Sequence[int] = (64, 96, 128, 160), blocks: int = 1) -> None:
        super().__init__()
        self.names = tuple(names)
        self.settings = {"names": list(names), "widths": list(widths), "blocks": blocks}
        self.classes, self.sketches = (_table(len(names) + 1, width) for width in (CODE, prod(SKETCH)))
        self.widen = nn.Conv2d(SKETCH[0], widths[-1], 1)
        self.hints = nn.Sequential(nn.Linear(HINTS, CODE), nn.SiLU(), nn.Linear(CODE, CODE))
        self.body = UNet(shrink=4, widths=tuple(widths), blocks=blocks, code=CODE, outputs=3, normalised=True)

    def forward(
        self, images: Images, hints: Float[Tensor, "n hints"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n 3 h w"]:
        """Draw pictures; they are not clamped to [0, 1].

        Args:
            images: Rough colour pictures in [0, 1].
            hints: What is known of each picture; see `hints_of`.
            classes: Index in `names` plus 1; 0 if the class is unknown or has no name there.
        """
        code = torch.nn.functional.silu(self.hints(hints) + self.classes(classes))
        sketch = self.widen(self.sketches(classes).unflatten(1, SKETCH))
        drawn: Tensor = images + self.body(images, code, sketch).float()
        return drawn


def _table(rows: int, width: int) -> nn.Embedding:
    """Return an embedding with normally distributed weights.

    On the meta device the weights are not drawn, because torch would import its compiler for that, which takes seconds.
    """
    numbers = torch.empty(rows, width)
    return nn.Embedding(rows, width, _weight=numbers if numbers.is_meta else numbers.normal_())
