"""Classes of obfuscations that cannot be told from one another by what arrives; docs/inspect.md has the reasons."""

from __future__ import annotations

from dataclasses import fields

from unveil.core.protocols import Obfuscation
from unveil.obfuscations.clip import DPSGD, Clip
from unveil.obfuscations.half import BF16, FP16
from unveil.obfuscations.noise import Gaussian, Laplace
from unveil.obfuscations.powersgd import PowerSGD
from unveil.obfuscations.qsgd import QSGD
from unveil.obfuscations.randomk import RandomK
from unveil.obfuscations.roles import Sparsifier, atoms
from unveil.obfuscations.ternary import Ternary
from unveil.obfuscations.uniform import Uniform

Noise = (Gaussian, Laplace)
Half = (FP16, BF16)
NEAR = 0.1  # relative difference up to which two settings count as one


def visible(obfuscation: Obfuscation) -> tuple[Obfuscation, ...]:
    """The stages that leave something to be seen.

    - Clipping in front of another stage than half precision leaves a direction, and the stage another length.
    - Noise in front of a sparsifier or a quantiser adds to what that one makes uncertain.
    - Behind low rank, stages work on the factors, which do not arrive; noise in front of it is in the factors.
    """
    stages = atoms((obfuscation,))
    kept = []
    for i, stage in enumerate(stages):
        later = stages[i + 1 :]
        lossy = [s for s in later if not isinstance(s, (*Half, Clip))]
        hidden = (
            (isinstance(stage, Clip) and any(not isinstance(s, Half) for s in later))
            or (isinstance(stage, Noise) and bool(lossy))
            or (not isinstance(stage, Clip) and any(isinstance(s, PowerSGD) for s in stages[:i]))
        )
        kept += [] if hidden else [stage]
    return tuple(kept)


def same_families(found: Obfuscation, true: Obfuscation) -> bool:
    """Whether the visible stages are of the same families, or of families that cannot be told apart."""
    one, other = visible(found), visible(true)
    # Rounding to the nearest behind noise is rounding at random: the noise is a dither.
    dithered = any(isinstance(stage, Noise) for stage in atoms((true,))) and not any(
        isinstance(s, Noise) for s in other
    )
    words = [[_word(stage, blind=dithered or _is_sparse(s[:i])) for i, stage in enumerate(s)] for s in (one, other)]
    return words[0] == words[1]


def same_settings(found: Obfuscation, true: Obfuscation) -> bool:
    """Whether all settings that can be told agree, numbers within a tenth; False where the families differ."""
    one, other = visible(found), visible(true)
    dithered = any(isinstance(stage, Noise) for stage in atoms((true,))) and not any(
        isinstance(s, Noise) for s in other
    )
    return same_families(found, true) and all(
        _agree(a, b, blind=dithered or _is_sparse(other[:i])) or _is_blurred(other, i)
        for i, (a, b) in enumerate(zip(one, other, strict=True))
    )


def _is_sparse(stages: tuple[Obfuscation, ...]) -> bool:
    return any(isinstance(stage, Sparsifier) for stage in stages)


def _is_blurred(stages: tuple[Obfuscation, ...], at: int) -> bool:
    """Whether zeros that a later stage makes hide how many entries a sparsifier sent."""
    return isinstance(stages[at], Sparsifier) and any(isinstance(s, QSGD | Ternary | Uniform) for s in stages[at + 1 :])


def _word(stage: Obfuscation, *, blind: bool) -> str:
    """The stage's name, or that of its class; `blind` where nothing tells roundings apart."""
    if isinstance(stage, DPSGD):
        return "gaussian"
    if isinstance(stage, Ternary) and stage.clip is None:
        return "qsgd"
    if blind and isinstance(stage, QSGD | Ternary | Uniform):
        return "even levels"
    return str(getattr(stage, "name", type(stage).__name__))


def _agree(one: Obfuscation, other: Obfuscation, *, blind: bool) -> bool:
    a, b = _settings(one, blind=blind), _settings(other, blind=blind)
    return a.keys() == b.keys() and all(_near(a[key], b[key]) for key in a)


def _near(a: object, b: object) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float) and not isinstance(a, bool):
        return abs(a - b) <= NEAR * abs(b)
    return a == b


def _settings(stage: Obfuscation, *, blind: bool) -> dict[str, object]:
    """The settings of a stage that can be told, in one unit each."""
    if isinstance(stage, DPSGD):
        return {"sigma": stage.clip * stage.noise}
    if isinstance(stage, Gaussian | Laplace):
        return {"sigma": stage.sigma} if stage.ratio is None else {"relative": stage.ratio}
    if isinstance(stage, RandomK):
        return {"density": stage.density}
    if isinstance(stage, PowerSGD):
        return {"rank": stage.rank}
    if isinstance(stage, Uniform) and blind and stage.range == "symmetric":
        return {"levels": 2 ** (stage.bits - 1), "norm": "max", "scope": stage.scope, "bucket": None}
    if isinstance(stage, Ternary) and (blind or stage.clip is None):
        return {"levels": 2, "norm": "max", "scope": "tensor", "bucket": None}
    return {field.name: getattr(stage, field.name) for field in fields(stage)}  # type: ignore[arg-type]
