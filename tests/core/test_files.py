"""Files that somebody else has made: what is none, what is too large, and what is not what its name says."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seeds import seeded, shifted
from unveil.core import arrays
from unveil.core import state_dicts as checkpoints
from unveil.core.arrays import read_npz
from unveil.core.errors import UsageError
from unveil.core.files import amount, is_folder, is_regular, quoted, read_bytes, regular, shown
from unveil.core.state_dicts import read_weights, take

posix = pytest.mark.skipif(sys.platform == "win32", reason="no pipes and devices with names")


def a_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def a_socket(path: Path) -> Path:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)
    return path


def a_circle(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


NO_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "folder": (lambda path: path.parent, "is a folder"),
    "pipe": (a_pipe, "is a pipe"),
    "socket": (a_socket, "is a socket"),
    "device": (lambda path: Path("/dev/zero"), "is a device"),
    "missing": (lambda path: path, "does not exist"),
    "below a file": (lambda path: Path(__file__) / "x", "does not exist"),
    "circle": (a_circle, "cannot be opened"),
    "long": (lambda path: path / ("x" * 5000), "cannot be opened"),
    "nul": (lambda path: path.with_name("a\0b"), "cannot be opened"),
    "half a character": (lambda path: path.with_name("\ud800"), "cannot be opened"),
}


@posix
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, kind: str) -> None:
    make, reason = NO_FILES[kind]
    path = make(tmp_path / "file")
    assert not is_regular(path)
    for read in (regular, lambda path, what, fix: read_bytes(path, what, fix=fix, most=9)):
        with pytest.raises(UsageError, match=rf"thing: .*{reason}.*; give another$") as error:
            read(path, "thing", fix="give another")
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 400


def test_a_regular_file_and_a_link_to_one_are_fine(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"12345")
    link.symlink_to(path)
    assert regular(link, "thing", fix="") == link
    assert read_bytes(link, "", fix="", most=5) == b"12345"
    with pytest.raises(UsageError, match=r"link has 5 bytes, and at most 4 bytes are read; shorten it"):
        read_bytes(link, "", fix="shorten it", most=4)
    assert is_folder(tmp_path)
    assert not is_folder(path)
    assert not is_folder(tmp_path / "\0")


@pytest.mark.slow
@given(st.text() | st.text(min_size=300))
@settings(deadline=None, max_examples=60)
def test_whatever_a_name_holds_a_message_stays_one_short_line(text: str) -> None:
    for said in (shown(text), quoted(text)):
        assert said.isprintable()
        assert len(said) <= 201
    if text.isprintable() and len(text) <= 200:
        assert shown(text) == text


def test_amounts_are_rounded_as_people_say_them() -> None:
    assert [amount(n) for n in (1, 1024, 1536 * 2**10, 3 * 2**30, 4 * 2**40)] == [
        "1 bytes",
        "1 KiB",
        "1.5 MiB",
        "3 GiB",
        "4 TiB",
    ]


def header(shape: str, descr: str = "'<f4'", version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


class Reckless:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("PWNED", "w")


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Reckless()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (objects(), "a holds object, not numbers or texts"),
        (header("(1099511627776,)") + b"x" * 64, r"a claims the shape \(1099511627776,\), and 64 bytes are there"),
        (header("(-5,)") + b"x" * 64, "a claims the shape"),
        (header("(2,)") + b"x" * 9, "a claims the shape"),
        (header("(2,)+open('PWNED','w')") + b"x" * 8, "a has no header of an array"),
        (header("(2,)", version=9) + b"x" * 8, "a has no header of an array"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "a has no header of an array"),
        (header("(1000000000000,)", "'|S0'"), "a holds .S0, not numbers or texts"),
        (header("(2,)", "[('x', '<f4')]") + b"x" * 8, r"a holds \[.*, not numbers or texts"),
        (b"", "a has no header of an array"),
    ],
    ids=range(10),
)
def test_arrays_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "x.npz", a=content)
    with pytest.raises(UsageError, match=rf"thing: .*x\.npz cannot be read \({reason}.*\); give another"):
        read_npz(path, "thing", fix="give another")
    assert not (tmp_path / "PWNED").exists()


def test_an_archive_is_measured_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "x.npz", a=header("(2000,)") + bytes(8000), b=header("(3,)") + bytes(12))
    assert path.stat().st_size < 1000
    unpacked: list[str] = []
    opened = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda self, entry, *rest: (unpacked.append(entry.filename), opened(self, entry))[1]
    )
    with pytest.raises(UsageError, match=r"it unpacks to 8 KiB, and at most 7\.8 KiB are read"):
        read_npz(path, "", fix="", most=8000)
    assert unpacked == []
    assert read_npz(path, "", fix="", most=8000, names=["b", "c"])["b"].shape == (3,)
    assert unpacked == ["b.npy"]
    monkeypatch.setattr(arrays, "MEMBERS", 1)
    with pytest.raises(UsageError, match="it has 2 members, and at most 1 are read"):
        read_npz(path, "", fix="")


@given(
    st.sampled_from(["<f4", ">f8", "<i2", ">u4", "|b1", "<U3", "|S5", "<c8", "<f2"]),
    st.lists(st.integers(0, 4), max_size=3),
    st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_plain_arrays_come_back_as_numpy_reads_them(descr: str, shape: list[int], in_columns: bool) -> None:
    import tempfile

    random = np.random.default_rng(shifted(0))
    array = random.integers(0, 9, shape).astype(np.dtype(descr))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        np.savez_compressed(path, a=np.asfortranarray(array) if in_columns else array)
        read = read_npz(path, "", fix="")["a"]
        with np.load(path) as reference:
            np.testing.assert_array_equal(read, reference["a"])
    assert read.dtype == np.dtype(descr).newbyteorder("=")


STATES: dict[str, tuple[Any, str]] = {
    "list": ([1, 2], "holds a list, expected tensors by name"),
    "tensor": (torch.zeros(3), "holds a Tensor, expected tensors by name"),
    "text": ("text", "holds a str"),
    "nothing": (None, "holds a NoneType"),
    "numbers for names": ({1: torch.zeros(2)}, "holds no tensors by name"),
    "object": ({"w": Reckless()}, r"cannot be read \(it is no file of weights, or holds more than tensors\)"),
    "module": (torch.nn.Linear(2, 2), "cannot be read"),
}


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("name", STATES)
def test_files_of_weights_that_hold_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_old: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    state, reason = STATES[name]
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=not is_old)
    with pytest.raises(UsageError, match=rf"net: .*x\.pth {reason}.*; give another$"):
        read_weights(tmp_path / "x.pth", "net", fix="give another")
    assert not (tmp_path / "PWNED").exists()


NO_WEIGHTS = [b"", b"PK", pickle.dumps(Reckless()), bytes(range(256)) * 9, b"\x80\x02}q\x00."]


@pytest.mark.parametrize("content", NO_WEIGHTS, ids=range(5))
@pytest.mark.parametrize("suffix", [".npz", ".pth"])
def test_files_of_weights_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"; give another$") as error:
        read_weights(path, "net", fix="give another")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "PWNED").exists()


def test_files_of_weights_are_measured_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"w": torch.zeros(5000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "x.pth", "w", 8) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / "x.pth").stat().st_size < 5000
    assert read_weights(tmp_path / "x.pth", "net", fix="")["w"].shape == (5000,)
    monkeypatch.setattr(checkpoints, "BYTES", 15_000)
    with pytest.raises(UsageError, match=r"it unpacks to [\d.]+ KiB, and at most 14\.6 KiB are read"):
        read_weights(tmp_path / "x.pth", "net", fix="")
    with pytest.raises(UsageError, match=r"plain.pth has [\d.]+ KiB, and at most 14\.6 KiB are read"):
        read_weights(tmp_path / "plain.pth", "net", fix="")


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_are_found_bare_or_under_state_dict(tmp_path: Path, wrapped: bool) -> None:
    weights = torch.randn(2, 3, generator=seeded(0), dtype=torch.float64)
    state = {"w": weights, "epoch": 3, 7: "x"}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "x.pth")
    found = read_weights(tmp_path / "x.pth", "net", fix="")
    assert torch.equal(take(found, "w", (2, 1, 3), "net", fix=""), weights.float().reshape(2, 1, 3))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, r"net: expected numbers as w, got a NoneType"),
        ("text", r"net: expected numbers as w, got a str"),
        (np.zeros(2, np.longdouble), "net: expected numbers as w, got"),
        (torch.zeros(3), r"net: w has shape \(3,\), expected \(2,\)"),
        (torch.zeros(1).expand(2**40), r"net: w has shape \(1099511627776,\), expected \(2,\)"),
        (torch.zeros(2, dtype=torch.int64), "net: expected floating-point numbers as w, got int64"),
        (torch.zeros(2, dtype=torch.bool), "net: expected floating-point numbers as w, got bool"),
        (torch.zeros(2, dtype=torch.complex64), "net: expected floating-point numbers as w, got complex64"),
        (torch.zeros(2).to_sparse(), "net: expected floating-point numbers as w, got float32"),
        (torch.zeros(2, device="meta"), "net: expected floating-point numbers as w"),
        (torch.tensor([0.0, torch.nan]), "net: w holds NaN or infinite values"),
        (torch.tensor([0.0, -torch.inf], dtype=torch.float64), "net: w holds NaN or infinite values"),
        (torch.tensor([0.0, 1e200], dtype=torch.float64), "net: w holds NaN or infinite values"),
    ],
)
def test_a_tensor_that_cannot_be_used(value: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"^{reason}.*; give another$"):
        take({"w": value}, "w", (2,), "net", fix="give another")
    with pytest.raises(UsageError, match=r"net has no v of shape \(2,\); give another"):
        take({"w": value}, "v", (2,), "net", fix="give another")
