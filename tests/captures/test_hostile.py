"""Files that were made to do harm are refused in one sentence, and run nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from captures.hostile import CASES, GOOD, SENTINEL, tensors
from sources import SOURCE, nodes
from unveil.captures.reading import read_recording
from unveil.core.errors import UsageError

ROOM = SOURCE / "captures"


SLOW = ("a header of 2 MiB", "10,001", "a bomb", "a million", "a pickle of 17 MiB", "000 deep", "a directory of")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if any(part in name for part in SLOW) else name for name in CASES]


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = tmp_path / f"hostile{case.suffix}"
    path.write_bytes(case.content())
    with pytest.raises(UsageError) as refused:
        read_recording(path)
    said = str(refused.value)
    assert case.says in said
    assert said.isprintable()
    assert said.startswith(f"recorded update: {path} cannot be ")
    assert said.endswith("record it again as docs/format.md shows")
    assert len(said) < 700
    assert not SENTINEL.exists()


def test_there_are_at_least_a_hundred_of_them_and_a_good_file_is_read(tmp_path: Path) -> None:
    assert len(CASES) >= 100
    (tmp_path / "good.safetensors").write_bytes(tensors(GOOD))
    assert read_recording(tmp_path / "good.safetensors").changes["w"].tolist() == [0.0]


def test_what_runs_code_would_be_noticed(tmp_path: Path) -> None:
    import pickle

    try:
        pickle.loads(CASES["pt: a pickle that runs code"].content())
        assert SENTINEL.exists()
    finally:
        SENTINEL.unlink(missing_ok=True)


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_no_path_leads_from_a_file_to_code(path: Path) -> None:
    """Nothing in the room imports by name, evaluates, or unpickles but by torch's safe loader."""
    imports = {alias.name for node in nodes(path) if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module or "" for node in nodes(path) if isinstance(node, ast.ImportFrom)}
    assert not (imports | froms) & {
        *("importlib", "runpy", "subprocess", "marshal", "shelve", "numpy.lib.npyio"),
        *("unveil.core.third_parties", "unveil.core.registry", "unveil.core.usercode"),
    }
    calls = [node for node in nodes(path) if isinstance(node, ast.Call)]
    for call in calls:
        name = ast.unparse(call.func)
        assert name == "re.compile" or name.split(".")[-1] not in {
            "eval",
            "exec",
            "compile",
            "__import__",
            "import_module",
            "system",
            "Unpickler",
        }
        assert name not in {"pickle.load", "pickle.loads", "np.load", "numpy.load"}
        if name == "torch.load":
            assert {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}["weights_only"] == "True"


@pytest.mark.parametrize(("name", "says"), [("device", "is a device"), ("folder.pt", "is a folder"), ("none.pt", "")])
def test_what_is_no_file_is_refused_before_it_is_opened(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "device.pt").symlink_to("/dev/zero")
    path = tmp_path / (name if name != "device" else "device.pt")
    with pytest.raises(UsageError, match=says or "does not exist; check the path"):
        read_recording(path)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "update.pkl").write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"expected a file ending in \.safetensors, \.npz, \.pt, \.pth; record it again"
    ):
        read_recording(tmp_path / "update.pkl")
