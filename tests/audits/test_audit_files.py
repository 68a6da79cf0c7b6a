"""Audit files of every kind, generated: each becomes an audit, or one sentence says why it does not."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generated import tried
from unveil.cli.app import TEMPLATE
from unveil.cli.config import load
from unveil.core.errors import UsageError

BASE = """
obfuscations = ["sign", "topk:density=0.1+qsgd:levels=4"]
seeds = [0]
threat_models = ["everything known"]
controls = ["another client"]
[[client]]
name = "a"
model = "lenet"
images = "builtin"
size = 8
batch = 1
training = "fedsgd"
[[attack]]
name = "rog"
steps = 1
[metrics]
decoys = 1
"""
KEYS = [
    *("obfuscations", "seeds", "threat_models", "controls", "enhancer", "client", "attack", "metrics", "variant"),
    *(f"client.0.{key}" for key in ("name", "model", "weights", "normalise", "images", "size", "channels", "batch")),
    *(f"client.0.{key}" for key in ("classes", "training", "labels_csv", "gallery", "seed")),
    *("attack.0.name", "attack.0.steps", "metrics.top", "metrics.probability", "metrics.decoys"),
    *("metrics.lpips_weights", "metrics.classifier", "metrics.distance", "client.-1.name", "client.٠.name", "..", ""),
]
STRANGE = [
    *("nan", "-inf", "1e400", "-1", "0", "100000", "1" + "0" * 40, "0.5", "true", "1979-05-27", "07:32:00", "[]", "{}"),
    *("[[]]", "[1, 2]", '["a"]', '""', '"\\u0000"', '"\\U0010FFFF"', "{ name = 3 }", '{ name = "lenet", x = nan }'),
    *(
        '"/dev/zero"',
        '"/proc/self/mem"',
        '"~nosuchuser/x"',
        '"."',
        '".."',
        '"os:system"',
        '"sys:exit"',
        '"antigravity:x"',
    ),
    *(
        '"lenet?"',
        '"lenet?a=[[[["',
        '"lenet?classes=-1"',
        '"..a:x"',
        "[0, 0]",
        "[3, 3, 3]",
        "[1e3, 8]",
        "9223372036854775808",
    ),
    *(
        "{ mean = 0.5, std = 0 }",
        "{ mean = [], std = nan }",
        '"[" * 9',
        "[" * 5000,
        "\udcff",
        "1 # c",
        "1\nx = 2",
        "'''",
    ),
]
VALUES = st.sampled_from(STRANGE) | st.text(max_size=6) | st.integers().map(str) | st.floats().map(repr)


def refusal(path: Path, overrides: Sequence[str] = (), variant: str | None = None) -> str:
    """What is said of the file; empty where it is an audit that can be kept and counted."""
    try:
        audit = load(path, overrides, variant=variant)
    except UsageError as error:
        return str(error)
    json.dumps(audit.settings())
    assert len(audit) > 0
    return ""


@pytest.mark.slow
@tried(60)
@given(overrides=st.lists(st.builds("{}={}".format, st.sampled_from(KEYS), VALUES), min_size=1, max_size=2))
def test_every_override(tmp_path: Path, overrides: list[str]) -> None:
    path = tmp_path / "audit.toml"
    path.write_text(BASE, encoding="utf-8")
    said = refusal(path, overrides).removeprefix(" with ".join([str(path), *(f"--set {text}" for text in overrides)]))
    assert len(said) < 1500 + 2 * sum(map(len, overrides))  # what is wrong is quoted
    assert "\n" not in said or any("\n" in text for text in overrides)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    lines = BASE.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["drop", "value", "table", "text", "twice"]))
        if change == "drop":
            lines[at] = ""
        elif change == "value":
            lines[at] = lines[at].partition("=")[0] + "= " + draw(VALUES)
        elif change == "table":
            lines.insert(
                at, draw(st.sampled_from(["[client]", "[client.model]", "[[metrics]]", "[variant.x.y]", "[a.b]"]))
            )
        elif change == "text":
            lines.insert(at, draw(st.text(max_size=10)))
        else:
            lines.insert(at, lines[-at])
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@pytest.mark.slow
@tried(60)
@given(content=damaged(), variant=st.sampled_from([None, None, "x", ""]))
def test_every_damage(tmp_path: Path, content: bytes, variant: str | None) -> None:
    path = tmp_path / "audit.toml"
    path.write_bytes(content)
    said = refusal(path, variant=variant)
    assert len(said) < 1500
    assert "\n" not in said


def test_the_file_that_is_damaged_here_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    path.write_text(BASE, encoding="utf-8")
    assert len(load(path)) == 3


TEXT = TEMPLATE.read_text(encoding="utf-8")
COMMENTED = re.findall(r"(?m)^# \w+ = .*$", re.sub(r"(?m)^# \[.*\n(# .*\n)+", "", TEXT))
MISSING = ("does not exist", "is not a folder", "have labels of their own", "cannot be read")
IN_NEED = {
    "batches": "ask for 2 or fewer",
    "class_names": "'astronaut' is not in class_names",
    "rounds": "set server_lr",
    "error_feedback": "set rounds = [1, 3]",
    "cohort_obfuscates": "set cohort = [1, 4]",
}
"""Key that needs another one, or other pictures than the built-in ones -> what is said of these."""


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMENTED)
def test_every_key_that_the_template_has_in_a_comment_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Uncommented where it stands: the key is known, and at most the file that it names is missing."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "audit.toml"
    path.write_text(TEXT.replace(line, line.removeprefix("# "), 1), encoding="utf-8")
    said = refusal(path)
    key = line.split()[1]
    if key in IN_NEED:
        assert IN_NEED[key] in said
    elif key in ("weights", "labels_csv", "gallery"):
        assert any(reason in said for reason in MISSING)
    else:
        assert not said


@pytest.mark.slow
def test_the_templates_variant_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    found = re.search(r"# \[variant\.long\]\n(# .*\n?)+", TEXT)
    assert found is not None
    path.write_text(TEXT.replace(found[0], found[0].replace("# ", "")), encoding="utf-8")
    audit = load(path, variant="long")
    assert list(audit.seeds) == [0, 1, 2]
    assert str(audit.attacks[0]) == "unveil:steps=200"


def test_the_templates_table_of_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "package_of_the_template").mkdir()
    (tmp_path / "package_of_the_template" / "module.py").write_text(
        "from torch import nn\n"
        "def factory(classes, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, width), nn.Tanh(), nn.Linear(width, classes))\n"
    )
    text = TEXT.replace("package.module:", "package_of_the_template.module:")
    table = re.search(r"# \[client\.model\]\n(# \w+ = .*\n)+", text)
    assert table is not None
    text = re.sub(r"(?m)^model = .*\n", "", text).replace(table[0], table[0].replace("# ", ""))
    (tmp_path / "audit.toml").write_text(text, encoding="utf-8")
    (client,) = load(tmp_path / "audit.toml").clients
    assert client.model_name == "package_of_the_template.module:factory?width=32"
    assert client.model[1].out_features == 32
