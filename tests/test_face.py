"""`import unveil`: quick, leaves torch alone, and every public name is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

import pytest

import unveil as uv

STUB = Path(uv.__file__).with_suffix(".pyi")


def test_every_name_of_the_stub_is_there_and_no_other() -> None:
    nodes = ast.parse(STUB.read_text(encoding="utf-8")).body
    named = [alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(uv.__all__) == sorted(named)
    assert 25 <= len(named) <= 45  # a face, not a catalogue
    for name in named:
        assert getattr(uv, name) is not None
    assert uv.__version__ == version("unveil")


def test_a_name_that_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="Clinet"):
        uv.Clinet  # noqa: B018


@pytest.mark.slow
def test_the_import_leaves_torch_alone() -> None:
    code = "import sys, unveil; print(sorted({'torch', 'numpy', 'scipy', 'pydantic', 'click'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parents[1] / "examples/one_attack.py"
    exec(compile(path.read_text(encoding="utf-8").replace("size=64", "size=32"), path, "exec"), {"__name__": "one"})
    lines = {
        line.split()[0]: [float(value) for value in line.split()[1:]] for line in capsys.readouterr().out.splitlines()
    }
    assert set(lines) == set(uv.metrics.CATALOGUE)
    assert median(lines["psnr"]) > 15
    assert (tmp_path / "one_attack.png").is_file()


def test_results_are_flat_records_with_the_same_keys() -> None:
    outcome = uv.ScoredOutcome(
        scores={"psnr": [20.0, 21.0]}, controls={"labels only": {"psnr": [9.0, 8.0]}}, labels=[1, 0], seconds=2.0
    )
    trial = uv.Trial(
        settings={"client": "a", "obfuscation": "none"},
        family="none",
        seed=3,
        wire_bits=1,
        raw_bits=2,
        iterations=4,
        peak_mib=None,
        stop=uv.Stop.FINISHED,
        losses=[],
        blind={"psnr": [7.0, 6.0]},
        outcomes={"attack": outcome},
    )
    first, second = uv.results([trial])
    assert list(first) == list(second)
    assert (first["client"], first["seed"], first["picture"], first["psnr"]) == ("a", 3, 0, 20.0)
    assert (second["picture"], second["psnr"], second["blind psnr"], second["labels only psnr"]) == (1, 21.0, 6.0, 8.0)
    assert (second["label"], second["outcome"], second["confidence"]) == (0, "attack", None)


def test_score_puts_pictures_into_order_and_rounds_them() -> None:
    import torch

    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = uv.score(images, images.flip(0))
    assert set(scores) == set(uv.metrics.CATALOGUE)
    assert min(scores["psnr"]) > 50  # what rounding to 8 bits leaves
    assert min(scores["psnr"]) < 60
    with pytest.raises(uv.UsageError, match="one reconstruction an original"):
        uv.score(images, images[:2])
