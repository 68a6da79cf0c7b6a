"""`make` takes the build of PyTorch without CUDA where it serves, and never one that torchvision cannot work with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "torch_build.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script on a Linux machine without a GPU, whose index has CPU builds of both packages."""
    spec = importlib.util.spec_from_file_location("torch_build", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    index = {"torch": "2.15.0, 2.14.1+cpu, 2.14.1, 2.5.1+cpu", "torchvision": "0.30.0, 0.29.1+cpu, 0.29.0+cpu, 0.28.0"}
    module.index, module.calls = index, []

    def pip(*args: str) -> str:
        module.calls.append(args)
        return f"{args[-1]} (1.0)\nAvailable versions: {index[args[-1]]}\n" if args[0] == "index" else ""

    monkeypatch.setattr(module, "pip", pip)
    monkeypatch.setattr(module, "default_has_cuda", lambda: True)
    monkeypatch.setattr(module, "has_gpu", lambda: False)
    monkeypatch.setattr(module, "is_cpu_build", lambda: False)
    return module


def test_the_newest_cpu_builds_that_fit_each_other_are_taken(script: ModuleType) -> None:
    assert script.main("auto", ["torch"]) == "torch==2.14.1+cpu"
    assert script.main("auto", ["torch", "torchvision"]) == "torch==2.14.1+cpu torchvision==0.29.1+cpu"
    script.index["torchvision"] = "0.31.0+cpu, 0.28.0+cpu"
    assert script.main("auto", ["torch", "torchvision"]) == ""


@pytest.mark.parametrize("versions", ["2.15.0, 2.14.1", "2.5.1+cpu", "2.14.1+cu130"])
def test_the_default_is_taken_where_there_is_no_cpu_build(script: ModuleType, versions: str) -> None:
    script.index["torch"] = versions
    assert script.main("auto", ["torch"]) == ""
    with pytest.raises(SystemExit, match="has no CPU build of torch"):
        script.main("cpu", ["torch"])


def test_an_index_that_cannot_be_asked_changes_nothing(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "pip", lambda *args: "ERROR: unknown command")
    assert script.main("auto", ["torch", "torchvision"]) == ""


def test_a_gpu_or_a_system_whose_default_is_small_takes_the_default(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "has_gpu", lambda: True)
    assert script.main("auto", ["torch"]) == ""
    assert script.main("cpu", ["torch"]) == "torch==2.14.1+cpu"
    monkeypatch.setattr(script, "has_gpu", lambda: False)
    monkeypatch.setattr(script, "default_has_cuda", lambda: False)
    assert script.main("auto", ["torch"]) == ""
    assert script.main("default", ["torch"]) == ""


def test_a_cpu_build_that_torchvision_cannot_work_with_is_taken_away(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "is_cpu_build", lambda: True)
    script.main("auto", ["torch", "torchvision"])
    assert ("uninstall", "--yes", "torch") not in script.calls
    script.index["torchvision"] = "0.30.0"
    assert script.main("auto", ["torch", "torchvision"]) == ""
    assert script.calls[-1] == ("uninstall", "--yes", "torch")


def test_another_word_is_refused(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="TORCH=cuda: expected auto, cpu or default"):
        script.main("cuda", ["torch"])
