"""The semantic generator: told what class a picture is of, it draws what was lost, where pixels are gone."""

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

CODE = 128
SKETCH = (32, 4, 4)  # what a class looks like to begin with: maps, height, width


class ClassConditionalGenerator(nn.Module):
    """Rough pictures, their hints and their classes in, plausible pictures out.

    Every block takes mean and spread out of its maps and puts the class's in their place: the class decides, and is not
    one input among many. Each class also has a rough sketch of its own, so that something can be drawn from a grey
    picture too: a control that could not draw at all would be no control. Class 0 means that nothing is known; names
    start at 1.

    Args:
        names: The classes it was trained on.
        widths: Channels at each scale, the first of 4 x 4 pixels.
        blocks: Residual blocks at each scale, down and up.

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
        """Drawn pictures, not clamped.

        Args:
            images: Colour pictures in [0, 1].
            hints: See `hints_of`.
            classes: Index into `names` plus one; 0 where the class is unknown or not among them.
        """
        code = torch.nn.functional.silu(self.hints(hints) + self.classes(classes))
        sketch = self.widen(self.sketches(classes).unflatten(1, SKETCH))
        drawn: Tensor = images + self.body(images, code, sketch).float()
        return drawn


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding. On the meta device it is not filled: torch would import its compiler first, which takes seconds."""
    numbers = torch.empty(rows, width)
    return nn.Embedding(rows, width, _weight=numbers if numbers.is_meta else numbers.normal_())
