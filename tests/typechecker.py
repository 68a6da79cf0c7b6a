"""Shapes and types are checked at run time in the tests; an int passes for a float, as PEP 484 has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from importlib import import_module
from typing import Any

from beartype import BeartypeConf, beartype

strict = beartype(conf=BeartypeConf(is_pep484_tower=True))
BUILDS: list[Callable[[], Any]] = []
"""Builds the check of each decorated function; `test_shapes.py` builds them all."""


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check what a function is called with; the check is built at the first call, as a worker calls few functions."""
    built: list[Callable[..., Any]] = []

    def build() -> Callable[..., Any]:
        if not built:
            built.append(strict(function))
        return built[0]

    def checked(*args: Any, **kwargs: Any) -> Any:
        return (built[0] if built else build())(*args, **kwargs)

    BUILDS.append(build)
    return checked


FOR_EVERY_OPERATION = (
    "calls:convolution_call",
    "calls:linear_call",
    "calls:tensors_in",
    "double_backward:_HardSigmoid.__torch_function__",
    "gradient:_Tape.__torch_function__",
    "network:_MeanOfDraws.__torch_function__",
    "tracing:Cut.__torch_function__",
    "tracing:Tape.__torch_function__",
)
"""Functions of `unveil.core` that are called for every operation of a network with whatever arguments it has."""


def leave_unchecked() -> None:
    """Check no call of `FOR_EVERY_OPERATION`: they were half of all checks, and their parameters have no shapes."""
    for name in FOR_EVERY_OPERATION:
        module, _, path = name.partition(":")
        function: Any = reduce(getattr, path.split("."), import_module(f"unveil.core.{module}"))
        function.__no_type_check__ = True
