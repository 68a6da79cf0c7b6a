"""What README, the examples and the template promise, tried in an empty folder, and in one with spaces in its name."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unveil import attacks, enhancers, obfuscations
from unveil.captures.manifest import Manifest
from unveil.captures.writing import write_recording
from unveil.cli.config import load
from unveil.clients import training
from unveil.clients.models import build_model
from unveil.core.batch import Batch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^    (unveil [^#\n]+)", README)
QUICK = ["attack.0.steps=1", "client.0.size=16", "client.0.batch=2", "metrics.decoys=0", "controls=[]"]
SMALL = """
controls = []
[[client]]
name = "client"
size = 16
batch = 2
{client}
[[attack]]
name = "rog"
steps = 1
"""

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["empty", "with spaces & é"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, holding nothing."""
    place = tmp_path / request.param
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return place


@pytest.fixture
def call(command: Call) -> Call:
    return command


def record(picture: Path) -> None:
    """Write `update.safetensors`, the gradient of one picture, and `mine.py`, which has the network."""
    Path("mine.py").write_text(
        "from torch import nn\n\n\ndef Net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 40 * 40, 4))\n"
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 40 * 40, 4))
    image = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None] / 255
    gradient = training.FedSGD()(model, Batch(image, torch.tensor([0])))
    known = {"image_shape": [3, 40, 40], "classes": 4, "examples": 1, "labels": [0], "mode": "eval"}
    facts = Manifest().declaring(**known)
    write_recording("update.safetensors", manifest=facts, before=model.state_dict(), gradient=gradient)


@pytest.mark.slow
def test_the_commands_of_the_readme(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it stands there, one after the other, with settings that make it short."""
    plans: list[Any] = []

    def fitted(plan: Any, on_progress: Any) -> dict[str, Any]:
        plans.append(plan)
        return {"figures": {"psnr": 1}, "checksum": "0" * 16, "notes": []}

    monkeypatch.setattr("unveil.fitting.fit.fit", fitted)
    shutil.copytree(ROOT / "studies", folder / "studies", ignore=shutil.ignore_patterns("pictures"))
    (folder / "pictures" / "a").mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(folder / "pictures" / "a" / "x.png")
    record(folder / "pictures" / "a" / "x.png")
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        _, *args = shlex.split(command)
        if args[0] == "audit" and args[1].endswith(".toml"):
            if args[1] == "mine.toml":
                call("init", "mine.toml")
            text = Path(args[1]).read_text(encoding="utf-8")
            quick = [setting for setting in QUICK if "[metrics]" in text or not setting.startswith("metrics")]
            quick += ['obfuscations=["none"]', "attack=[{name='rog', steps=1}]"]
            args += [part for setting in quick[1:] for part in ("--set", setting)]
        if args[0] == "advise":  # takes minutes; tests/cli/test_advising.py runs it
            assert call("init", args[1])[0] == 0
            continue
        if args[0] == "merge":
            seeds = ["seeds=[0,1,2,3]", 'obfuscations=["none"]', "attack=[{name='rog', steps=1}]"]
            sets = [part for setting in QUICK[1:] + seeds for part in ("--set", setting)]
            for number in (1, 2):
                parted = call("audit", "audit.toml", "--shard", f"{number}/2", "--out", f"part-{number}", *sets)
                assert parted[0] == 0, parted[2]
        code, out, err = call(*args)
        if "--device" in args and not torch.cuda.is_available():
            assert code == 2
            assert "--device cuda:0 cannot be used" in err
            continue
        if "--ray" in args and importlib.util.find_spec("ray") is None:
            assert code == 2
            assert "--ray needs Ray" in err
            continue
        # The short audit has the baseline alone, of which a gate says nothing; tests/gate/test_page.py runs others.
        assert code == (5 if args[0] == "gate" else 0), f"{command}: {err}"
        assert err.count("Traceback") == 0
        if args[0] == "audit":
            assert "Report: audits" in out
    assert [str(plan.sources[0]) for plan in plans] == ["pictures"]


@pytest.mark.slow
def test_a_real_process_in_a_folder_with_spaces(tmp_path: Path) -> None:
    """As installed: the script's own process, whose first import is not this suite's."""
    place = tmp_path / "a folder"
    place.mkdir()
    (place / "my_nets.py").write_text(
        "import torch\nfrom torch import nn\nprint('hello from my module')\n"
        "def net(num_classes, width=4):\n"
        "    layers = nn.Linear(768, width), nn.ReLU(inplace=True), nn.Linear(width, num_classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    (place / "my audit.toml").write_text(SMALL.format(client='model = "my_nets:net?width=6"'), encoding="utf-8")
    command = [sys.executable, "-m", "unveil", "audit", "my audit.toml", "--json"]
    known = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    answer = subprocess.run(
        command,
        cwd=place,
        env={**os.environ, "PYTHONPATH": known},
        capture_output=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["trials"][0]["settings"]["model"] == "my_nets:net?width=6"
    assert "hello from my module" in answer.stderr
    assert (place / "audits" / "my audit" / "report.html").is_file()


def test_every_spec_of_the_readmes_table_is_one(folder: Path) -> None:
    table = README.split("| kind | examples |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"(?m)^\| ([a-z ]+) \| (.*) \|$", table))
    parsers: dict[str, Callable[[str], Any]] = {
        "models": partial(build_model, image_shape=(3, 8, 8), classes=2, seed=0),
        "local training": training.parse,
        "enhancers": enhancers.parse,
        "attacks": attacks.parse,
    }
    tried = 0
    for kind, cell in rows.items():
        for spec in re.findall(r"`([^`]+)`", cell):
            if not spec.startswith("unveil fit"):
                parsers.get(kind, obfuscations.parse)(spec)
                tried += 1
    assert tried >= 25


def test_every_name_that_list_shows_can_be_used(folder: Path, call: Call) -> None:
    """Each is accepted as it stands there, its settings with the defaults that are shown beside it."""
    _, out, _ = call("list", "--json")
    parsers: dict[str, Callable[[str], Any]] = {
        "obfuscations": obfuscations.parse,
        "trainings": training.parse,
        "attacks": attacks.parse,
        "enhancers": enhancers.parse,
    }
    needed = {"lr": "0.1", "steps": "1", "density": "0.5", "levels": "4", "bits": "4", "norm": "1", "clip": "1"}
    needed |= {
        "noise": "0.1",
        "sigma": "0.1",
        "rank": "1",
        "pruning_rate": "0.4",
        "percent": "90",
        "limit": "1",
        "send": "head",
    }
    for entry in json.loads(out):
        if entry["kind"] in parsers:
            given = {key: needed[key] for key, value in entry["settings"].items() if value is None}
            shown = {key: value for key, value in entry["settings"].items() if value not in (None, "none")} | given
            if entry["name"] in ("fedavg", "gaussian", "laplace"):  # one of two must be given
                given |= {"fedavg": {"steps": "1"}}.get(entry["name"], {"sigma": "0.1"})
                shown |= given
            for settings in (given, shown):
                spec = ",".join(f"{key}={value}" for key, value in settings.items())
                parsers[entry["kind"]](entry["name"] + (":" + spec if spec else ""))


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["with spaces & é"], indirect=True)
def test_the_example_of_ones_own_model(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(
        ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "examples"]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = call("audit", "examples/own_model.toml")
    assert code == 2
    assert "own_model.safetensors does not exist; check the path" in err
    source = folder / "examples" / "own_model.py"
    space = {"__name__": "own_model", "__file__": str(source)}
    exec(compile(source.read_text(encoding="utf-8"), source, "exec"), space)
    space["main"]()
    code, out, err = call("audit", "examples/own_model.toml", "--set", "attack.0.steps=1", "--json")
    assert code == 0, err
    trial = json.loads(out[out.index("{") :])["trials"][0]
    assert trial["settings"]["model"] == "examples.own_model:Net?dropout=0.2&width=16"
    assert trial["settings"]["weights"].startswith("own_model.safetensors (SHA-256 ")
    assert trial["settings"]["normalise"] == "mean 0.45, std 0.25"
    assert trial["settings"]["batch"] == "4 x 3 x 24 x 32"
    assert any("own_model.safetensors" in sentence for sentence in trial["outcomes"]["attack"]["assumptions"])
    for name in [name for name in sys.modules if name.partition(".")[0] == "examples"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.slow
def test_other_weights_are_another_audit(folder: Path, call: Call) -> None:
    import torch
    from torch import nn

    Path("nets_of_promises.py").write_text(
        "from torch import nn\ndef net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(768, classes))\n"
    )
    Path("audit.toml").write_text(SMALL.format(client='model = "nets_of_promises:net"\nweights = "w.pt"'))
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 14))
    torch.save(model.state_dict(), "w.pt")
    assert call("audit", "audit.toml", "--out", "out")[0] == 0
    assert call("audit", "audit.toml", "--out", "out")[0] == 0
    with torch.no_grad():
        model[1].bias.zero_()
    torch.save(model.state_dict(), "w.pt")
    code, _, err = call("audit", "audit.toml", "--out", "out")
    assert code == 2
    assert "weights of the model was w.pt (SHA-256 " in err
    sys.modules.pop("nets_of_promises")


FAILING = """
import sys
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, classes, kind):
        super().__init__()
        self.inner, self.kind = nn.Linear(768, classes), kind
    def forward(self, x):
        CALLS.append(len(x))
        print("forward")
        if self.kind == "late" and len(CALLS) > 6:
            raise LookupError("no more pictures")
        if self.kind == "exit" and len(CALLS) > 6:
            sys.exit(0)
        return self.inner(x.flatten(1))
def net(classes, kind): return Net(classes, kind)
CALLS = []
"""


@pytest.mark.parametrize(("kind", "message"), [("late", "LookupError: no more pictures"), ("exit", "SystemExit: 0")])
def test_a_network_that_fails_in_the_middle_is_the_users(folder: Path, call: Call, kind: str, message: str) -> None:
    """With its error and place, as exit 2; trials that are finished are kept."""
    name = f"failing_{kind}"
    Path(f"{name}.py").write_text(FAILING, encoding="utf-8")
    client = f'model = "{name}:net?kind={kind}"'
    Path("audit.toml").write_text(SMALL.format(client=client).replace("steps = 1", "steps = 99"), encoding="utf-8")
    code, out, err = call("audit", "audit.toml", "--json")
    sys.modules.pop(name)
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert f"{message} ({name}.py, line " in last
    assert "bug in unveil" not in err


@pytest.mark.slow
def test_a_results_folder_and_pictures_with_spaces(folder: Path, call: Call) -> None:
    for colour in ("dark red", "sky blue"):
        (folder / "my pictures" / colour).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (20 + number, 31), 60 * number + 20).save(folder / "my pictures" / colour / f"{number} .png")
    client = 'images = "my pictures"\nchannels = 1\nsize = [17, 23]'
    Path("my audit.toml").write_text(SMALL.format(client=client).replace("size = 16\n", ""), encoding="utf-8")
    assert len(load(Path("my audit.toml"))) == 1
    code, out, _ = call("audit", "my audit.toml", "--out", "my results")
    assert code == 0
    assert "Report: my results/report.html" in out
    (picture, *_) = sorted((folder / "my results").rglob("original-00.png"))
    with Image.open(picture) as image:
        assert (image.mode, image.size) == ("L", (23, 17))
    assert call("report", "my results")[0] == 0
