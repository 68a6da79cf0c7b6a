"""What the documentation shows must run."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import small_update
from seeds import seeded
from unveil import obfuscations
from unveil.audits import results
from unveil.audits.trial import run_trial
from unveil.captures import manifest, reading
from unveil.cli import toml_files
from unveil.clients.client import Client
from unveil.clients.pictures import decode, table
from unveil.core import arrays, protocols
from unveil.core import state_dicts as checkpoints
from unveil.core.files import amount
from unveil.core.protocols import Obfuscation
from unveil.core.registry import build
from unveil.enhancers import weights
from unveil.fitting import archive
from unveil.obfuscations import roles
from unveil.report import html, wall
from unveil.testing import check_metric

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def walked_through(monkeypatch: pytest.MonkeyPatch) -> Obfuscation:
    """The obfuscation that CONTRIBUTING.md builds, from its own text."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    module = types.ModuleType("threshold")
    monkeypatch.setitem(sys.modules, "threshold", module)
    exec(compile(code[0], "CONTRIBUTING.md", "exec"), module.__dict__)
    entry = eval("{" + code[1] + "}", module.__dict__)
    obfuscation: Obfuscation = build("obfuscation", {**obfuscations.CATALOGUE, **entry}, "threshold:least=0.01")
    return obfuscation


def test_the_walk_through_of_contributing_works(walked_through: Obfuscation) -> None:
    update = small_update()
    received = walked_through(update, generator=seeded(0))
    assert 0 < received.wire_bits < update.wire_bits
    assert all(float(t[t != 0].abs().min()) >= 0.01 for t in received.tensors.values() if bool(t.any()))
    misfit = walked_through.misfit(received)
    other = small_update(seed=1)
    assert float(misfit(update.tensors)) == pytest.approx(0, abs=1e-12)
    assert float(misfit(other.tensors)) > 1e-6
    assert str(walked_through) == "threshold:least=0.01"
    with pytest.raises(ValueError, match="expected least > 0"):
        type(walked_through)(least=0.0)  # type: ignore[call-arg]


def test_the_short_walks_of_contributing_work() -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    space: dict[str, Any] = {"__name__": "walks"}
    sys.modules["walks"] = types.ModuleType("walks")
    exec(compile("\n".join(code[2:]), "CONTRIBUTING.md", "exec"), space)
    del sys.modules["walks"]
    check_metric(space["WORST_PIXEL"])
    model = space["perceptron"]((3, 8, 8), 10, width=4)
    client = Client(model, torch.rand((2, 3, 8, 8), generator=seeded(0)), torch.tensor([1, 2]))
    metrics = {"worst_pixel": space["WORST_PIXEL"]}
    trial = run_trial(client, obfuscations.parse("none"), space["Grey"](level=0.25), metrics=metrics)
    assert trial.settings["attack"] == "walks:Grey:level=0.25"
    assert all(0.5 < score <= 0.75 for score in trial.scores["worst_pixel"])


def test_contributing_lists_every_hook_and_where_it_is_called() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| `\w+\.(\w+)` \|", page, flags=re.MULTILINE))
    kinds = {"LocalTraining", "Obfuscation", "Attack", "Enhancer"}
    hooks = {
        name: next((member for member in vars(protocol) if not member.startswith("_")), "")
        for name, protocol in vars(protocols).items()
        if getattr(protocol, "_is_runtime_protocol", False) and protocol.__module__.startswith(protocols.__name__)
    }
    assert listed == {name: member for name, member in hooks.items() if name not in kinds}


def test_contributing_lists_every_role_of_a_stage() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    table = page.split("(`obfuscations/roles.py`)")[1].split("\n## ")[0]
    listed = {name: re.findall(r"`(\w+)`", cell) for name, cell in re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.M)}
    assert listed == {
        name: [member for member in vars(protocol) if not member.startswith("_")]
        for name, protocol in vars(roles).items()
        if getattr(protocol, "_is_protocol", False) and protocol.__module__ == roles.__name__
    }


def test_every_file_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = re.findall(r"`([a-z_]+/?)`", text.split("## Rooms")[1].split("## Factored")[0])
    source = ROOT / "src" / "unveil"
    folders = {f"{path.name}/" for path in source.rglob("[a-z]*") if path.is_dir()}
    names = folders | {folder.rstrip("/") for folder in folders} | {path.stem for path in source.rglob("[a-z]*.py")}
    assert not set(rooms) - names
    tops = {path.stem for path in source.glob("[a-z]*.py")} | {p.name for p in source.iterdir() if p.is_dir()}
    assert tops - {room.rstrip("/") for room in rooms} <= {"__pycache__"}


def test_the_limits_that_the_page_on_files_gives_are_those_of_the_code() -> None:
    rows = [line.split("|")[1:4] for line in (ROOT / "docs" / "files.md").read_text().splitlines() if "|" in line]
    limits = {what.strip(): most for what, _, most in rows}
    for what, most in (
        ("audit file", amount(toml_files.LARGEST)),
        ("a picture", amount(decode.MOST_BYTES)),
        ("a picture", f"{decode.MOST_PIXELS // 10**6} million pixels"),
        ("table of labels", amount(table.MOST_BYTES)),
        ("table of labels", f"classes below {table.MOST_CLASSES:,}"),
        ("weights of LPIPS and of classifiers", amount(checkpoints.BYTES)),
        ("weights of LPIPS and of classifiers", f"{arrays.MEMBERS:,} members"),
        ("weights of an enhancer", amount(weights.LARGEST)),
        ("weights of an enhancer", f"{weights.TENSORS:,} tensors"),
        ("`.npz` of pictures for `unveil fit`", f"{amount(arrays.BYTES)} unpacked"),
        ("`.npz` of pictures for `unveil fit`", f"{archive.LEAST} to {archive.MOST:,} pixels a side"),
        ("`.npz` of pictures for `unveil fit`", amount(archive.ROOM)),
        ("recorded updates", amount(reading.LARGEST)),
        ("recorded updates", f"{manifest.TENSORS:,} tensors, {reading.FILES:,} files"),
        ("results of `unveil audit`", amount(results.LARGEST)),
        ("results of `unveil audit`", f"a picture in the report {amount(wall.PICTURE)}, settings {amount(html.SHOWN)}"),
    ):
        assert most in limits[what], (what, most)
    formats = {what.strip(): how for what, how, _ in rows}["a picture"]
    assert {name.upper() for name in re.findall(r"[A-Z]\w+", formats)} >= set(decode.FORMATS)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
