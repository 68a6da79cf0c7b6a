"""Which build of PyTorch `make` installs: the small one without CUDA where there is no GPU and the index has it.

    python scripts/torch_build.py BUILD PACKAGE...

prints what to name to pip beside the project: nothing for what pip takes by itself, which on Linux is a build with CUDA
of several gigabytes. BUILD is `auto`, `cpu` or `default`; PACKAGE is torch, and torchvision where it is needed too.
torchvision must be of the same build: if the index has it with CUDA alone, so must torch be, and a torch without CUDA
that is already installed is taken away.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

LEAST = (2, 6)  # of torch, as in pyproject.toml
APART = 15  # torchvision 0.28 is for torch 2.13
DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")  # of NVIDIA's and AMD's drivers, and of WSL


def main(build: str, packages: Sequence[str]) -> str:
    """The requirements for pip, separated by blanks; empty for the default build.

    Args:
        build: `auto`, `cpu` or `default`.
        packages: `torch`, or `torch` and `torchvision`.
    """
    if build not in ("auto", "cpu", "default"):
        sys.exit(f"TORCH={build}: expected auto, cpu or default")
    wanted = build == "cpu" or (build == "auto" and default_has_cuda() and not has_gpu())
    found = newest({package: versions(package) for package in packages}) if wanted else []
    if wanted and not found and build == "cpu":
        sys.exit(
            f"TORCH=cpu: the index that pip is configured with has no CPU build of {' and '.join(packages)} that fit; "
            "add one to pip's configuration, such as PyTorch's own, or leave TORCH=cpu out"
        )
    if not found and "torchvision" in packages and is_cpu_build():
        pip("uninstall", "--yes", "torch")
    return " ".join(found)


def default_has_cuda() -> bool:
    """Whether pip takes a build with CUDA here by itself."""
    return platform.system() == "Linux" and platform.machine() == "x86_64"


def has_gpu() -> bool:
    """Whether this machine has a graphics card for computing."""
    return any(Path(device).exists() for device in DEVICES)


def is_cpu_build() -> bool:
    """Whether a torch without CUDA is installed."""
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False


def versions(package: str) -> list[str]:
    """The versions of a package that pip's index has for this Python; none if pip cannot say."""
    listed = re.search(r"Available versions: (.*)", pip("index", "versions", package))
    return listed[1].split(", ") if listed else []


def pip(*args: str) -> str:
    """What pip prints."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *args]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def newest(available: dict[str, list[str]]) -> list[str]:
    """The newest CPU builds that fit each other, as requirements; none if there are none.

    Args:
        available: Package -> its versions.
    """
    builds = {
        package: sorted(map(_release, filter(_is_cpu, all_)), reverse=True) for package, all_ in available.items()
    }
    for torch in builds["torch"]:
        vision = [found for found in builds.get("torchvision", []) if found[:2] == (torch[0] - 2, torch[1] + APART)]
        if torch[:2] >= LEAST and (vision or "torchvision" not in builds):
            fit = {"torch": torch} | ({"torchvision": vision[0]} if vision else {})
            return [f"{package}=={'.'.join(map(str, release))}+cpu" for package, release in fit.items()]
    return []


def _is_cpu(version: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)*\+cpu", version) is not None


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split("."))


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2:]))
