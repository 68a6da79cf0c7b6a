"""The obfuscations between client and server: quantisation, sparsification, perturbation, and pipelines of them.

To add one: write its file and add its class to `CATALOGUE`. The contract tests, TOML, `unveil list` and the report
pick it up from there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from unveil.core.errors import UsageError
from unveil.core.protocols import Obfuscation
from unveil.core.registry import build
from unveil.obfuscations.blockwise import Blockwise8, Float4, NormalFloat4
from unveil.obfuscations.clamp import Clamp
from unveil.obfuscations.clip import DPSGD, Clip
from unveil.obfuscations.half import BF16, FP16
from unveil.obfuscations.layers import Layers
from unveil.obfuscations.noise import Gaussian, Laplace
from unveil.obfuscations.none import Identity
from unveil.obfuscations.percentile import Percentile
from unveil.obfuscations.pipeline import Pipeline
from unveil.obfuscations.powersgd import PowerSGD
from unveil.obfuscations.qsgd import QSGD
from unveil.obfuscations.randomk import RandomK
from unveil.obfuscations.sign import Sign
from unveil.obfuscations.soteria import Soteria
from unveil.obfuscations.svt import SVT
from unveil.obfuscations.ternary import Ternary
from unveil.obfuscations.topk import TopK
from unveil.obfuscations.uniform import Uniform

CATALOGUE: Mapping[str, type] = {
    "none": Identity,
    "qsgd": QSGD,
    "uniform": Uniform,
    "sign": Sign,
    "ternary": Ternary,
    "fp16": FP16,
    "bf16": BF16,
    "blockwise8": Blockwise8,
    "nf4": NormalFloat4,
    "fp4": Float4,
    "topk": TopK,
    "percentile": Percentile,
    "randomk": RandomK,
    "soteria": Soteria,
    "layers": Layers,
    "powersgd": PowerSGD,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "clip": Clip,
    "clamp": Clamp,
    "dpsgd": DPSGD,
    "svt": SVT,
}

MOST_STAGES = 64
"""Most stages of a pipeline."""


def parse(text: str) -> Obfuscation:
    """Build an obfuscation from its SPEC; stages joined by `+` make a pipeline.

    Raises:
        UsageError: An unknown name or setting, or a value out of range.
    """
    parts = re.split(r"\+(?=\s*[A-Za-z_])", text)  # not the plus of 1e+06
    if len(parts) > MOST_STAGES:
        raise UsageError(f"obfuscation of {len(parts)} stages, and at most {MOST_STAGES} are joined; leave stages out")
    stages: list[Obfuscation] = [build("obfuscation", CATALOGUE, part) for part in parts]
    return stages[0] if len(stages) == 1 else Pipeline(tuple(stages))
