"""Pictures of a vision transformer: one in closed form, several decoded from the sum of their tokens' errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.imagenet import CLASSES, by_line, imagenet_client, means
from benchmarks.measuring import measured
from unveil import obfuscations
from unveil.core.protocols import Misfit, Obfuscation
from unveil.core.update import Update

SEEDS = (0, 1, 2)


class TinyViT(nn.Module):
    """A standard vision transformer with LayerNorm before attention and a class token, 12 blocks of 3 heads.

    Args:
        size: Side of the picture in pixels.
        patch: Side of a patch in pixels.
        width: Entries of a token.
        seed: Of the weights; Linear layers are drawn with standard deviation 0.02, as ViTs usually are.
    """

    def __init__(self, *, size: int, patch: int, width: int = 192, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Conv2d(3, width, patch, stride=patch)
            self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
            self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    width, 3, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(12)
            )
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, CLASSES)
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the classes, from pictures in [0, 1]."""
        patches = self.embedding((images - 0.5) / 0.5).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], 1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        scores: Tensor = self.head(self.norm(tokens[:, 0]))
        return scores


@dataclass(frozen=True, kw_only=True)
class SparingPositions:
    """QSGD on all of an update but the position embeddings, to see what their noise costs the attack.

    Args:
        levels: Levels of QSGD.
    """

    family: ClassVar[str] = "quantise"
    levels: int = 16

    @property
    def inner(self) -> Obfuscation:
        """QSGD."""
        return obfuscations.parse(f"qsgd:levels={self.levels},norm=max")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Quantise; see `Obfuscation`."""
        sent = self.inner(update, generator=generator)
        return replace(sent, tensors={**sent.tensors, "positions": update.tensors["positions"]})

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Return QSGD's misfit of all else; see `Obfuscation`."""
        others = {name: tensor for name, tensor in received.tensors.items() if name != "positions"}
        return self.inner.misfit(replace(received, tensors=others), sent_only=sent_only)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run on ImageNet pictures.

    Args:
        size: Side of the picture in pixels.
        patch: Side of a patch in pixels.
        width: Entries of a token.
        attack: The attack.
        obfuscation: What is done to the update.
        training: The client's local training.
        seed: Of the weights and of the audit; it chooses the pictures too.
        pictures: Number of pictures in the batch, each of another class.
    """

    size: int
    patch: int
    width: int = 192
    attack: str = "unveil"
    obfuscation: str = "none"
    training: str = "fedsgd"
    seed: int = 0
    pictures: int = 1

    def __str__(self) -> str:
        *alone, pictures = map(str, astuple(self))
        return "; ".join([*alone, f"{pictures} pictures"] if self.pictures > 1 else alone)


QSGD16, SPARED = "qsgd:levels=16,norm=max", "benchmarks.transformers:SparingPositions:levels=16"
NAMES = {SPARED: f"`{QSGD16}`, positions exact"}
CASES: Sequence[Case] = tuple(
    Case(size=size, patch=patch, width=width, obfuscation=sent, training=local, seed=seed)
    for size, patch, width, sent, local in (
        (224, 16, 192, "none", "fedsgd"),
        (224, 16, 384, "none", "fedsgd"),
        (64, 8, 192, "none", "fedsgd"),
        (224, 16, 192, "none", "fedavg:steps=5,lr=0.003"),
        (224, 16, 192, "fp16", "fedsgd"),
        (64, 8, 192, QSGD16, "fedsgd"),
        (64, 8, 192, SPARED, "fedsgd"),
        (224, 16, 192, QSGD16, "fedsgd"),
    )
    for seed in SEEDS
)
SEVERAL = 4  # pictures of a batch
OTHER = "inverting_gradients:steps=1000"
SEVERAL_CASES: Sequence[Case] = tuple(
    Case(size=64, patch=8, attack=attack, seed=seed, pictures=SEVERAL)
    for attack, seeds in (("unveil", SEEDS), (OTHER, SEEDS[:1]))
    for seed in seeds
)


def run(case: Case, places: Places) -> Result:
    """One run of one attack."""
    client = imagenet_client(
        places,
        range(case.seed * case.pictures, (case.seed + 1) * case.pictures),
        size=case.size,
        name=f"ViT-tiny/{case.patch}",
        model_name=f"vit{case.width}",
        model=TinyViT(size=case.size, patch=case.patch, width=case.width, seed=case.seed).eval(),
        training=case.training,
    )
    return measured(client, attack=case.attack, obfuscation=case.obfuscation, seed=case.seed)[0]


def line(case: Case) -> tuple[str, str]:
    """What stands in the line of a case, without figures."""
    local = "" if case.training == "fedsgd" else f"`{case.training}`, then "
    network = f"patches of {case.patch} px, width {case.width}, {case.size} px"
    return network, local + NAMES.get(case.obfuscation, f"`{case.obfuscation}`")


def table(results: Results) -> str:
    """A line for each network and update, over the pictures."""
    rows = [
        "| network | update sent | pictures, one each | PSNR dB | worst | blind guess | SSIM | s / picture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (network, sent), found in by_line(CASES, results, line).items():
        mean = means(found)
        rows.append(
            f"| {network} | {sent} | {len(found)} | {mean['psnr']:.1f} | {min(run['psnr'] for run in found):.1f} "
            f"| {mean['psnr_blind']:.1f} | {mean['ssim']:.3f} | {mean['seconds']:.0f} |"
        )
    return "\n".join(rows) + "\n"


def several(results: Results) -> str:
    """A line for each attack and batch of several pictures."""
    rows = [
        "| attack | batch and seed | pictures | PSNR dB | worst | blind guess | SSIM | s / picture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in SEVERAL_CASES:
        if (run := results.get(str(case))) is not None:
            rows.append(
                f"| `{case.attack}` | {case.seed} | {case.pictures} | {run['psnr']:.1f} | {run['psnr_min']:.1f} "
                f"| {run['psnr_blind']:.1f} | {run['ssim']:.3f} | {run['seconds'] / case.pictures:.0f} |"
            )
    return "\n".join(rows) + "\n"


BENCHMARK = Benchmark(
    name="transformers",
    title="pictures of a vision transformer, from its patch and position embeddings",
    cases=lambda: (*CASES, *SEVERAL_CASES),
    run=run,
    missing=lambda case, places: places.no_pictures,
    apart=True,
    minutes=20,
    blocks=(
        Block(page=DOCS / "method.md", marker="transformers", table=table),
        Block(page=DOCS / "method.md", marker="transformers-several", table=several),
    ),
)
