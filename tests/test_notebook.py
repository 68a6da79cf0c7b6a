"""docs/notebook.md: its code runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs/notebook.md"
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.mark.slow
def test_the_page_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) > 5
    for code, said in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, PAGE.name, "exec"), names)
        text = printed.getvalue()
        assert NUMBER.sub("#", text) == NUMBER.sub("#", said), code
        numbers = [[float(number) for number in NUMBER.findall(part)] for part in (text, said)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.1, abs=0.05), code


@pytest.mark.slow
def test_the_example_of_the_readme_runs() -> None:
    from unveil.clients.models import build_model

    (code,) = re.findall(r"```python\n(.*?)```", (PAGE.parents[1] / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = build_model("lenet", image_shape=(3, 16, 16), classes=10, seed=0)
    names: dict[str, Any] = {"model": model, "images": images, "labels": torch.tensor([1, 2])}
    exec(compile(code.replace("steps=100", "steps=2"), "README.md", "exec"), names)
    assert len(names["scores"]["psnr"]) == len(names["trial"].scores["psnr"]) == 2
