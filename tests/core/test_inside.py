"""Reading what a folder from somebody else holds: never beyond the folder, never something that does not end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from unveil.core.errors import UsageError
from unveil.core.inside import is_inside, read_inside, refuse_link

SECRET = b"secret"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(SECRET)
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").write_bytes(b"content")
    return tmp_path / "folder"


def test_a_file_inside_is_read_also_where_the_folder_itself_is_a_link(folder: Path) -> None:
    assert read_inside(folder, "deep/file", most=7, fix="") == b"content"
    (folder.parent / "named").symlink_to("folder")
    assert read_inside(folder.parent / "named", "deep/file", most=7, fix="") == b"content"


@pytest.mark.parametrize(
    "path", ["../secret", "deep/../../secret", "/etc/passwd", "..\\secret", "", ".", "a\0b", "x" * 5000, "absent"]
)
def test_no_path_leads_out(folder: Path, path: str) -> None:
    with pytest.raises(UsageError, match=r"(?s)(is not inside|cannot be opened|expected a regular file).*; mend it$"):
        read_inside(folder, path, most=100, fix="mend it")


def test_no_link_is_followed(folder: Path) -> None:
    (folder / "file").symlink_to("../secret")
    (folder / "within").symlink_to("deep/file")
    (folder / "sub").symlink_to("../outside")
    (folder / "circle").symlink_to("circle")
    for path in ("file", "within", "sub/file", "circle"):
        with pytest.raises(UsageError, match="is a link, which could lead out of the folder; mend it"):
            read_inside(folder, path, most=100, fix="mend it")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_only_regular_files_are_read_and_none_is_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(UsageError, match="pipe is a pipe, expected a regular file"):
        read_inside(folder, "pipe", most=100, fix="")
    with pytest.raises(UsageError, match="deep is a folder, expected a regular file"):
        read_inside(folder, "deep", most=100, fix="")
    with socket.socket(socket.AF_UNIX) as bound:
        before = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        bound.bind("socket")
        os.chdir(before)
        with pytest.raises(UsageError, match=r"socket (is a socket, expected a regular file|cannot be opened)"):
            read_inside(folder, "socket", most=100, fix="")


def test_a_file_is_measured_before_it_is_read(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"deep/file has 7 bytes, and at most 6 bytes are read; mend it"):
        read_inside(folder, "deep/file", most=6, fix="mend it")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs files whose size is not true")
def test_a_file_whose_size_is_not_true_is_measured_while_it_is_read() -> None:
    with pytest.raises(UsageError, match="has more than 100 bytes; mend it"):
        read_inside(Path("/proc"), f"{os.getpid()}/status", most=100, fix="mend it")


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("images/a.png", True),
        ("a", True),
        ("..a/b", True),
        ("../a", False),
        ("a/../../b", False),
        ("/a", False),
        ("", False),
        ("a\\b", False),
        ("a\0", False),
    ],
)
def test_what_is_inside(path: str, inside: bool) -> None:
    assert is_inside(path) is inside


def test_a_link_is_refused_and_everything_else_is_not(folder: Path) -> None:
    (folder / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match="link is a link"):
        refuse_link(folder / "link", "")
    for other in ("deep", "deep/file", "absent", "a\0b"):
        refuse_link(folder / other, "")
