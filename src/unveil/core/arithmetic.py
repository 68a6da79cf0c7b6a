"""In which arithmetic a trial is computed, so that its results say so and can be had again on another machine.

Steps of a search that need only three digits are taken in bfloat16 where the processor computes in it, everything else
in float32. One switch decides: `float32` never rounds further, on a CUDA device not to TF32 either; `bfloat16` takes
the rough steps in it even where it has to be emulated; `auto` asks the processor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch
from torch import Tensor

from unveil.core.errors import UsageError, nearest

VARIABLE = "UNVEIL_ARITHMETIC"

Arithmetic = Literal["float32", "bfloat16"]
Choice = Literal["auto", "float32", "bfloat16"]

_chosen: ContextVar[Choice | None] = ContextVar("arithmetic", default=None)


@contextmanager
def using(choice: Choice | None) -> Iterator[None]:
    """Decide for everything inside; None leaves it to the environment variable."""
    before = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(before)


def choice() -> Choice:
    """What was decided by `using`, else by the environment variable, else `auto`.

    Raises:
        UsageError: The variable holds another word.
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
    raise UsageError(f"{VARIABLE}: expected auto, float32 or bfloat16, got {word!r}; {hint}")


def has_bfloat16(device: torch.device) -> bool:
    """Whether arithmetic in bfloat16 is the processor's own there, not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def arithmetic_on(device: torch.device) -> Arithmetic:
    """What rough steps are computed in there."""
    chosen = choice()
    if chosen == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    return chosen


def rough_steps(images: Tensor) -> AbstractContextManager[object]:
    """Computes on pictures as roughly as was decided; pictures of another type than float32 keep theirs."""
    roughly = images.dtype == torch.float32 and arithmetic_on(images.device) == "bfloat16"
    return torch.autocast(images.device.type, torch.bfloat16, enabled=roughly)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Where float32 was chosen, products inside are not rounded to TF32 or bfloat16, whatever torch was set to."""
    if choice() != "float32":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = convolutions


def machine(device: torch.device) -> dict[str, str]:
    """What of the machine results may depend on in their last digits, as words for a trial's versions."""
    with full_precision(device):
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
    return found
