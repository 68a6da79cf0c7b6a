"""What `unveil.captures.flower` says where Flower is not installed; with it, see `tests/integrations`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unveil.captures import flower
from unveil.core.errors import UsageError


def test_without_flower_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    with pytest.raises(UsageError, match=r"is not installed; pip install 'unveil\[flower\]'"):
        flower.recording_mod(tmp_path)


@pytest.mark.slow
def test_the_import_leaves_flower_alone() -> None:
    code = "import sys, unveil.captures.flower; print(sorted({'flwr', 'ray'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
