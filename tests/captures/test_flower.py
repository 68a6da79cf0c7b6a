"""What `unveil.captures.flower` says where Flower is not installed; with it, see `tests/integrations`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from unveil.captures import flower
from unveil.core.errors import UsageError


def test_without_flower_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    calls = [
        lambda: flower.recording_mod(tmp_path),
        lambda: flower.recording_strategy(object(), tmp_path),
        lambda: flower.obfuscation_mod("fp16"),
        lambda: flower.recognised(print),
        lambda: flower.drive(cast(Any, None), {}, tmp_path),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"is not installed; pip install 'unveil\[flower\]'"):
            call()


@pytest.mark.parametrize(
    ("spec", "kwargs", "says"),
    [
        ("topk:density=2", {}, "expected 0 < density <= 1"),
        ("soteria:pruning_rate=0.4", {}, "needs the client's network and pictures"),
        ("topk:density=0.1+soteria:pruning_rate=0.4", {}, "needs the client's network and pictures"),
        ("fp16", {"buffers": "some"}, "expected buffers as one of kept, sent, obfuscated"),
        ("fp16", {"seed": -1}, "expected a seed of at least 0"),
    ],
)
def test_a_mod_that_cannot_work_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, spec: str, kwargs: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr("unveil.captures.flower.obfuscation.flower", lambda: None)
    with pytest.raises(UsageError, match=says):
        flower.obfuscation_mod(spec, **kwargs)


@pytest.mark.slow
def test_the_import_leaves_flower_alone() -> None:
    code = "import sys, unveil.captures.flower; print(sorted({'flwr', 'ray'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
