"""NVFlare's own filters that change updates, understood as unveil's obfuscations with their observation models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unveil.core.errors import UsageError
from unveil.core.protocols import Obfuscation
from unveil.core.registry import spec_of
from unveil.obfuscations.blockwise import Blockwise8, Float4, NormalFloat4
from unveil.obfuscations.clamp import Clamp
from unveil.obfuscations.half import FP16
from unveil.obfuscations.none import Identity
from unveil.obfuscations.numerics import share_of
from unveil.obfuscations.percentile import Percentile
from unveil.obfuscations.pipeline import Pipeline
from unveil.obfuscations.svt import SVT

QUANTISERS: Mapping[str, Callable[[], Obfuscation]] = {
    "float16": FP16,
    "blockwise8": Blockwise8,
    "float4": Float4,
    "normfloat4": NormalFloat4,
}
"""`quantization_type` of NVFlare's `ModelQuantizer` -> the obfuscation that does the same."""


def spec_of_filter(
    name: str, arguments: Mapping[str, Any] | None = None, *, steps: int = 1, entries: int | None = None
) -> str:
    """Return the SPEC of what one of NVFlare's own filters does to a weight difference.

    NVFlare counts BatchNorm's statistics and counters among the entries, and leaves single numbers as they are; the
    SPEC is about the parameters.

    Args:
        name: The filter's class: `PercentilePrivacy`, `SVTPrivacy`, `ModelQuantizer`, `ModelDequantizer`,
            `ConvertWeights` or `ExcludeVars`, whose missing tensors need no model.
        arguments: Its arguments by name, those that are left at their defaults excepted.
        steps: The local steps that the client declares as `NUM_STEPS_CURRENT_ROUND`, by which the privacy filters
            divide; NVFlare takes 1 if it declares none.
        entries: Number of entries of the update, which the budget `epsilon_release` of `SVTPrivacy` is spread over.

    Raises:
        UsageError: It is another filter, or what it does is not among unveil's obfuscations.
    """
    given = dict(arguments or {})
    if name in ("ExcludeVars", "ModelDequantizer", "ConvertWeights"):
        return spec_of(Identity())
    if name == "PercentilePrivacy":
        return _percentile(given.get("percentile", 10), given.get("gamma", 0.01), steps)
    if name == "SVTPrivacy":
        return _sparse_vector(given, steps, entries)
    if name == "ModelQuantizer":
        kind = str(given.get("quantization_type", "float16")).lower()
        if kind in QUANTISERS:
            return str(QUANTISERS[kind]())
        raise UsageError(f"NVFlare's quantiser {kind} is none of unveil's obfuscations; leave the obfuscation unknown")
    raise UsageError(
        f"it is not known what the filter {name} does; declare the obfuscation, such as topk:density=0.05, with the "
        "recorder"
    )


def _percentile(percent: float, gamma: float, steps: int) -> str:
    if not 0 <= percent <= 100 or gamma <= 0:
        return spec_of(Identity())  # NVFlare lets the update pass
    return str(Pipeline((Percentile(percent=float(percent)), Clamp(limit=gamma * steps))))


def _sparse_vector(given: Mapping[str, Any], steps: int, entries: int | None) -> str:
    names = ("fraction", "epsilon", "noise_var", "replace", "epsilon_threshold", "epsilon_query")
    settings = {name: given[name] for name in names if name in given}
    release = given.get("epsilon_release")
    if release is not None:
        if entries is None:
            raise UsageError("SVTPrivacy with epsilon_release: its noise depends on the update's size; give entries")
        settings["noise_var"] = release / share_of(float(given.get("fraction", SVT.fraction)), entries)
    return spec_of(SVT(**settings, gamma=given.get("gamma", SVT.gamma) * steps, tau=given.get("tau", SVT.tau) * steps))
