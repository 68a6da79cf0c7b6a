"""Files that the package writes: in full or not at all, and from few places."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import sources
from sources import SOURCE, nodes, text
from unveil.core.files import append_whole, make_folder, write_new, write_several, write_whole

WRITER = "core/files.py"
WRITERS = {"write_whole", "write_several", "write_new", "append_whole"}

MAY_WRITE = {
    "advice/folder.py",
    "audits/noting.py",
    "audits/results.py",
    "audits/tabular.py",
    "audits/trial_pictures.py",
    "captures/recorder.py",
    "captures/writing.py",
    "report/export.py",
    "report/html.py",
    "enhancers/weights.py",
    "fitting/fit.py",
    "fitting/loop.py",
    "fitting/pairs.py",
    "cli/app.py",
    "cli/gating.py",
}
"""Who calls the writer: results, recorded updates with their pictures, the page, weights, a training's work folder,
the command line."""

ELSEWHERE = {"audits/profiling.py"}
"""Who writes what is no file on a disk: the kernel's switch for the peak of memory."""


def fail(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")
    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (order.append("replace"), replace(path, target))[1])
    write_whole(tmp_path / "file", b"x")
    assert order == ["fsync", "replace", "fsync"]  # the content, then the name


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_whole(path, b"x")
    assert path.read_bytes() == b"x"


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_private_file_is_its_owners_alone(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"x", private=True)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_what_is_private_is_its_owners_alone_whatever_the_mask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        make_folder(tmp_path / "above" / "folder", private=True)
        write_several(tmp_path / "above" / "folder", {"a": b"x", "b": b"y"}, private=True)
    finally:
        os.umask(before)
    assert (tmp_path / "above").stat().st_mode & 0o777 == 0o777 & ~mask
    assert (tmp_path / "above" / "folder").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "above" / "folder").iterdir()} == {0o600}


def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path, private=True)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="needs folders that can be opened")
def test_the_folder_is_synced_whenever_a_name_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    make_folder(tmp_path / "one" / "two")
    assert synced == [str(tmp_path), str(tmp_path / "one")]
    del synced[:]
    write_several(tmp_path / "one", {"a": b"x", "b": b"y"})
    assert [Path(path).suffix for path in synced] == [".part", ".part", ""]
    assert synced[-1] == str(tmp_path / "one")
    del synced[:]
    append_whole(tmp_path / "log", b"x\n")
    append_whole(tmp_path / "log", b"x\n")
    assert synced == [str(tmp_path / "log"), str(tmp_path), str(tmp_path / "log")]


def test_a_line_is_added_to_no_link_and_to_no_new_file_unless_it_may_be_created(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"kept\n")
    (tmp_path / "link").symlink_to("other")
    with pytest.raises(OSError, match="symbolic links"):
        append_whole(tmp_path / "link", b"x\n")
    assert (tmp_path / "other").read_bytes() == b"kept\n"
    with pytest.raises(FileNotFoundError):
        append_whole(tmp_path / "absent", b"x\n", create=False)
    assert not (tmp_path / "absent").exists()


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    write_new(tmp_path / "file", b"one")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one"


def test_lines_are_added_at_the_end(tmp_path: Path) -> None:
    for line in (b"one\n", b"two\n"):
        append_whole(tmp_path / "file", line)
    assert (tmp_path / "file").read_bytes() == b"one\ntwo\n"


def writes(nodes: Iterable[ast.AST]) -> list[str]:
    """Calls that write, replace or move a file, as `name in line n`; a `save` into `content`, a buffer, is none."""
    found = []
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        whole = ast.unparse(node.func) if name in {"replace", "dump", "move", "open"} else name
        to_memory = any(isinstance(argument, ast.Name) and argument.id == "content" for argument in node.args)
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        constants = [str(value.value) for value in given if isinstance(value, ast.Constant)]
        written = (
            name in {"write_text", "write_bytes", "save_file", "savez", "NamedTemporaryFile", "mkstemp", "rename"}
            or (name == "open" and any(set(mode) & set("wax+") and len(mode) < 4 for mode in constants))
            or (name == "save" and isinstance(node.func, ast.Attribute) and not to_memory)
            or (name == "replace" and len(node.args) == 1 and not node.keywords)
            or whole in {"os.replace", "json.dump", "pickle.dump", "shutil.move"}
            or (whole == "os.open" and "os.O_RDONLY" not in ast.unparse(node))
        )
        found += [f"{name} in line {node.lineno}"] if written else []
    return found


FILES = {path.relative_to(SOURCE).as_posix(): path for path in sources.FILES}


def test_only_the_writer_opens_files_for_writing() -> None:
    others = {name: path for name, path in FILES.items() if name not in {WRITER, *ELSEWHERE}}
    assert not [f"{name}: {found}" for name, path in others.items() for found in writes(nodes(path))]
    assert not [name for name, path in others.items() if '".part"' in text(path)]


def test_the_writer_is_called_from_few_places() -> None:
    callers = {name for name, path in FILES.items() if any(f"{writer}(" in text(path) for writer in WRITERS)}
    assert callers - {WRITER} == MAY_WRITE


@pytest.mark.parametrize(
    "code",
    [
        "path.write_text(x)",
        "open(path, 'w')",
        "path.open('ab', buffering=0)",
        "path.open(mode='x')",
        "image.save(path)",
        "np.save(path, x)",
        "torch.save(x, path)",
        "save_file(tensors, path)",
        "part.replace(path)",
        "os.replace(part, path)",
        "tempfile.NamedTemporaryFile('wb')",
        "os.open(path, flags)",
    ],
)
def test_every_form_of_writing_is_seen(code: str) -> None:
    assert len(writes(ast.walk(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "open(path)",
        "path.open('rb')",
        "text.replace('a', 'b')",
        "replace(x, a=1)",
        "image.save(content)",
        "save(x)",
        "os.open(x, os.O_RDONLY)",
    ],
)
def test_reading_and_memory_are_no_writing(code: str) -> None:
    assert writes(ast.walk(ast.parse(code))) == []
