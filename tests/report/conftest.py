"""A trial as an audit would record it, without running one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unveil.core.errors import UsageError
from unveil.core.guarantees import PrivacyStatement
from unveil.core.reconstruction import Stop
from unveil.core.records import ATTACK, ENHANCED, Enhancement, ScoredOutcome, Trial
from unveil.obfuscations import parse as parse_obfuscation
from unveil.obfuscations.layers import Layers

MakeTrial = Callable[..., Trial]


def make_trial(
    *,
    client: str = "demo",
    obfuscation: str = "none",
    attack: str = "rog",
    training: str = "fedsgd",
    threat_model: str = "everything known",
    confidence: list[float] | None = None,
    seed: int = 0,
    psnr: list[float] | None = None,
    ssim: list[float] | None = None,
    correlation: list[float] | None = None,
    blind: float = 11.0,
    wire_bits: int = 1_000_000,
    losses: list[float] | None = None,
    stop: Stop = Stop.FINISHED,
    notes: list[str] | None = None,
    pictures: bool = False,
    enhancer: str = "",
    before: list[float] | None = None,
    enhancement: Enhancement | None = None,
    family: str | None = None,
    found_first: list[float] | None = None,
    privacy: list[PrivacyStatement] | None = None,
    chance: list[float] | None = None,
) -> Trial:
    psnr = [25.0, 26.0, 27.0, 28.0, 25.5, 26.5, 27.5, 24.5] if psnr is None else psnr
    ssim = [0.8] * len(psnr) if ssim is None else ssim
    files = [f"images/{number:02d}.png" for number in range(len(psnr))] if pictures else []
    try:
        parsed = parse_obfuscation(obfuscation)
    except UsageError:
        parsed = None
    if family is None:
        family = parsed.family if parsed else "unheard of"

    def outcome(psnr: list[float], enhancement: Enhancement | None = None) -> ScoredOutcome:
        return ScoredOutcome(
            scores={"psnr": psnr}
            | ({"ssim": ssim} if ssim else {})
            | ({"correlation": correlation} if correlation else {})
            | ({"reid_top1": found_first} if found_first else {}),
            images=files,
            labels=list(range(len(psnr))),
            seconds=2.0,
            assumptions=[
                "The attacker knows the labels of the batch.",
                f"The attacker knows the obfuscation ({obfuscation}).",
            ],
            notes=notes or [],
            confidence=confidence or [],
            enhancement=enhancement,
        )

    return Trial(
        family=family,
        settings={
            "client": client,
            "model": "lenet",
            "images": "builtin",
            "batch": f"{len(psnr)} x 3 x 8 x 8",
            "training": training,
            "obfuscation": obfuscation,
            "attack": attack,
            "threat_model": threat_model,
            **({"enhancer": enhancer} if enhancer else {}),
        },
        seed=seed,
        wire_bits=wire_bits,
        raw_bits=8_000_000,
        iterations=4,
        peak_mib=100.0,
        stop=stop,
        blind={"psnr": [blind] * len(psnr), "ssim": [0.2] * len(psnr)},
        losses=[8.0, 4.0, 2.0, 1.0] if losses is None else losses,
        originals=files,
        outcomes={ATTACK: outcome(psnr)}
        if enhancement is None
        else {ATTACK: outcome(psnr if before is None else before), ENHANCED: outcome(psnr, enhancement)},
        layers=parsed.choice if isinstance(parsed, Layers) else None,
        privacy=privacy or [],
        chance=chance or [],
        versions={"unveil": "0.1.0"},
    )


@pytest.fixture
def trial() -> MakeTrial:
    return make_trial


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with eight tiny pictures in it."""
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (8, 8), (30 * number, 90, 200 - 20 * number)).save(tmp_path / f"images/{number:02d}.png")
    return tmp_path
