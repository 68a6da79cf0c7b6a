"""The settings of a training, which the command line takes as they are; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from unveil.core.errors import UsageError
from unveil.fitting.recipes import DESTRUCTION, RESTORATION, Recipe

Setting = Literal["faithful", "sharp", "semantic"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """The schedule of a training.

    Args:
        steps: Number of steps, each on one batch.
        lr: Highest learning rate. The rate rises over the first 100 steps, and a cosine lowers it to 1/50 at the end.
        every: Steps between two validations, each of which writes a checkpoint too.
        seed: Seed of the batches.
        of: Text that names the initial weights and the training data; a checkpoint with another text is refused.

    Raises:
        UsageError: A value is out of its range.
    """

    steps: int
    lr: float = 4e-4
    every: int = 500
    seed: int = 0
    of: str = ""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.every < 1:
            raise UsageError(f"fit: expected at least 1 step, got {self.steps} with a look every {self.every}")
        if not self.lr > 0:
            raise UsageError(f"fit: expected lr > 0, got {self.lr:g}; 0.0004 is usual")
        if self.seed < 0:
            raise UsageError(f"fit: expected a seed >= 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The plan of one training of an enhancer.

    Args:
        setting: `faithful`, `sharp` or `semantic`.
        sources: Folders or .npz files of training pictures; the first gives the size.
        work: Folder for pairs and checkpoints; a training that was interrupted continues from it.
        out: The file of weights that is written; it ends in .safetensors.
        clients: Number of simulated clients, whose pictures make the pairs.
        steps: Number of training steps.
        lr: Learning rate.
        evaluate: Folders or .npz files of pictures for evaluation; training on one of them raises an error.
        leave_out: Leave pictures for evaluation out of the training instead of raising an error.
        begin: File of weights to train further; None to start from new weights.
        pairs: Folders of pairs from an earlier training on these sources, which are used too.
        size: Height and width in pixels to which a folder's pictures are brought.
        seed: Seed of all randomness.
        licence: Licence of the pictures, for the card.
        lpips_weights: For `semantic`: a file of AlexNet's weights, which compare pictures; `download` to fetch them.
        command: The command that started the training, for the card.

    Raises:
        UsageError: A setting is missing or out of its range.
    """

    setting: Setting
    sources: Sequence[Path]
    work: Path
    out: Path
    clients: int = 400
    steps: int = 20_000
    lr: float = 4e-4
    evaluate: Sequence[Path] = ()
    leave_out: bool = False
    begin: Path | None = None
    pairs: Sequence[Path] = ()
    size: int = 128
    seed: int = 0
    licence: str = "not given"
    lpips_weights: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("fit: expected at least one source of pictures; give a folder or an .npz")
        if self.clients < 2 and not (self.pairs and self.clients == 0):
            raise UsageError(f"fit: expected at least 2 clients (or 0 with --pairs), got {self.clients}; 400 is usual")
        if self.setting == "semantic" and self.lpips_weights is None:
            raise UsageError("fit: a semantic enhancer is trained with AlexNet's eyes; give --lpips-weights FILE")
        if self.out.suffix != ".safetensors":
            raise UsageError(f"fit: expected --out to end in .safetensors, got {self.out.name!r}; rename it")
        Training(steps=self.steps, lr=self.lr, seed=self.seed)

    def recipes(self, side: int) -> Sequence[Recipe]:
        """Return the recipes of simulated clients for pictures of `side` x `side` pixels; each client follows one."""
        return (replace(DESTRUCTION, sizes=(side,)),) if self.setting == "semantic" else RESTORATION
