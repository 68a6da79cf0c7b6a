"""Whatever bytes a file holds, the reader returns a sound recording or one sentence."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captures.hostile import GOOD, SENTINEL, raw, tensors
from generated import tried
from unveil.captures.manifest import KINDS, Manifest
from unveil.captures.reading import read_recording
from unveil.core.errors import UsageError


def archived() -> bytes:
    content = io.BytesIO()
    np.savez(content, **{name: np.ones(1, np.float32) for name in GOOD}, manifest='{"format": 1}')  # type: ignore[arg-type]
    return content.getvalue()


def pickled() -> bytes:
    content = io.BytesIO()
    torch.save({"global": {"w": torch.ones(1)}, "client": {"w": torch.ones(1)}, "manifest": '{"format": 1}'}, content)
    return content.getvalue()


FILES = {
    ".safetensors": tensors(GOOD, {"manifest": '{"format": 1, "facts": {}, "order": ["w"]}'}),
    ".npz": archived(),
    ".pt": pickled(),
}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)
sizes = st.integers(-2, 2**66) | st.integers(0, 12)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "BOOL", "U8", "I64", "F8_E5M2"]) | anything,
        "shape": st.lists(sizes, max_size=4) | anything,
        "data_offsets": st.tuples(sizes, sizes).map(list) | anything,
    }
)
names = st.sampled_from(["client/w", "global/w", "delta/w", "gradient/w", "client/v", "w"]) | st.text(max_size=12)


def reads(content: bytes, suffix: str) -> None:
    """Read a file; fail unless the result is sound or refused in one sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"update{suffix}"
        path.write_bytes(content)
        said = ""
        try:
            recording = read_recording(path)
        except UsageError as error:
            said = str(error)
        assert said.isprintable()
        if not said:
            assert set(recording.manifest.order) == set(recording.sent)
            for name, tensor in recording.sent.items():
                assert bool(torch.isfinite(tensor.double()).all()), name
            assert all(len(change.shape) == recording.sent[name].ndim for name, change in recording.changes.items())
    assert not SENTINEL.exists()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FILES)
def test_any_byte_of_a_good_file_may_change(suffix: str) -> None:
    good = FILES[suffix]

    @tried(60)
    @given(
        st.lists(st.tuples(st.integers(0, len(good) - 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4)
    )
    def law(changes: list[tuple[int, bytes]]) -> None:
        content = bytearray(good)
        for place, new in changes:
            content[place : place + len(new)] = new
        reads(bytes(content), suffix)

    law()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FILES)
def test_a_file_may_be_cut_and_continued(suffix: str) -> None:
    good = FILES[suffix]

    @tried(30)
    @given(st.integers(0, len(good)), st.binary(max_size=40))
    def law(length: int, more: bytes) -> None:
        reads(good[:length] + more, suffix)

    law()


@pytest.mark.slow
@tried(50)
@given(st.dictionaries(names, entries, max_size=4) | anything, st.binary(max_size=40), st.none() | anything)
def test_a_header_may_say_anything(header: Any, body: bytes, metadata: Any) -> None:
    if isinstance(header, dict) and metadata is not None:
        header = {**header, "__metadata__": metadata}
    reads(raw(json.dumps(header).encode("utf-8", "surrogatepass"), body), ".safetensors")


@pytest.mark.slow
@tried(50)
@given(
    st.dictionaries(
        st.sampled_from(sorted(KINDS)), anything | st.fixed_dictionaries({"value": anything, "source": anything})
    )
)
def test_a_manifest_may_say_anything(facts: dict[str, Any]) -> None:
    reads(tensors(GOOD, {"manifest": json.dumps({"format": 1, "facts": facts})}), ".safetensors")


@pytest.mark.slow
@tried(40)
@given(st.binary(max_size=200))
def test_a_pickle_may_hold_any_instructions(pickle: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(FILES[".pt"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, inner in members.items():
            archive.writestr(name, b"\x80\x02" + pickle + b"." if name.endswith("data.pkl") else inner)
    reads(content.getvalue(), ".pt")


@tried(50)
@given(st.fixed_dictionaries({}, optional={"learning_rate": st.floats(1e-20, 1e20), "steps": st.integers(1, 10**9)}))
def test_a_manifest_is_written_as_it_is_read(values: dict[str, Any]) -> None:
    facts = {name: {"value": value, "source": "observed"} for name, value in values.items()}
    read = Manifest.parse(json.dumps({"format": 1, "facts": facts}))
    assert Manifest.parse(str(read)) == read
    assert {name: fact.value for name, fact in read.facts.items() if fact.value is not None} == values
