"""The number format in which a trial is computed: float32, or bfloat16 for the steps that need only three digits.

Results name the arithmetic, so that another machine can repeat them. One choice controls it. `float32` never rounds
further. `bfloat16` takes the rough steps in bfloat16 even if it is emulated. `auto` takes them in bfloat16 if the
processor has instructions for it, and in float32 if not. `tf32` rounds all products on a CUDA device to TF32, which the
other choices never do; a processor has no TF32 and computes in float32.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch

from unveil.core.blocked_slopes import BlockedSlopes
from unveil.core.errors import UsageError, nearest
from unveil.core.types import Images

VARIABLE = "UNVEIL_ARITHMETIC"

Arithmetic = Literal["float32", "tf32", "bfloat16"]
Choice = Literal["auto", "float32", "tf32", "bfloat16"]

_chosen: ContextVar[Choice | None] = ContextVar("arithmetic", default=None)


@contextmanager
def using(choice: Choice | None) -> Iterator[None]:
    """Set the choice for the code inside the `with` block; None leaves it to the environment variable."""
    before = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(before)


def choice() -> Choice:
    """Return the choice set by `using`, else that of the environment variable `VARIABLE`, else `auto`.

    Raises:
        UsageError: The variable is set to an unknown word.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    word = os.environ.get(VARIABLE) or "auto"
    for known in get_args(Choice):
        if word == known:
            found: Choice = known
            return found
    hint = nearest(word, list(get_args(Choice)))
    raise UsageError(f"{VARIABLE}: expected auto, float32, tf32 or bfloat16, got {word!r}; {hint}")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16, so that it is not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def arithmetic_on(device: torch.device) -> Arithmetic:
    """Return the arithmetic of rough steps on this device; `tf32` is that of all others, too."""
    chosen = choice()
    if chosen == "tf32":
        return "tf32" if device.type == "cuda" else "float32"
    if chosen == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    return chosen


@contextmanager
def rough_steps(images: Images) -> Iterator[None]:
    """Let torch compute in `arithmetic_on` the pictures' device, and slopes in pictures by blocks.

    Pictures of another type than float32 are computed in their own type.
    """
    roughly = images.dtype == torch.float32 and arithmetic_on(images.device) == "bfloat16"
    with (
        warnings.catch_warnings(),
        torch.autocast(images.device.type, torch.bfloat16, enabled=roughly),
        BlockedSlopes(),
    ):
        # torch says this of norms whose weights stay in float32, which is what is meant.
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        yield


@contextmanager
def chosen_precision(device: torch.device) -> Iterator[None]:
    """Round products inside the `with` block as was chosen.

    `float32` turns off torch's rounding to TF32 or bfloat16. On a CUDA device `tf32` turns TF32 on, and every other
    choice turns it off, which torch has on for convolutions.
    """
    chosen = choice()
    if chosen != "float32" and device.type != "cuda":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if chosen == "tf32" or chosen == "float32":
        torch.set_float32_matmul_precision("high" if chosen == "tf32" else "highest")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = chosen == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = convolutions


def machine(device: torch.device) -> dict[str, str]:
    """Return what scores depend on in this machine, in words; `Trial.versions` keeps them. See `circumstances`."""
    with chosen_precision(device):
        products = torch.get_float32_matmul_precision()
        found = {
            "processor": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": "yes" if has_bfloat16(device) else "no",
            "threads": str(torch.get_num_threads()),
        }
        if products != "highest":
            found["float32 products"] = products
        if device.type == "cuda":
            found["tf32"] = "yes" if torch.backends.cudnn.allow_tf32 else "no"
            found["card"] = torch.cuda.get_device_name(device)
    return found
