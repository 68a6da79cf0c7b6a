"""Whether others reach a port, which cluster of this machine is meant, and one of other versions."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from unveil.core.ray_loopback import is_on_loopback_alone, own_address
from unveil.core.ray_workers import other_versions, started_before


def test_what_listens_on_the_loopback_alone_is_told_from_what_others_reach() -> None:
    if own_address() is None:
        pytest.skip("this machine reaches no others")
    for address, alone in (("127.0.0.1", True), ("0.0.0.0", False)):
        with socket.create_server((address, 0)) as listening:
            port = listening.getsockname()[1]
            assert is_on_loopback_alone("localhost", port) is alone
            assert not is_on_loopback_alone(str(own_address()), port)
        assert not is_on_loopback_alone("localhost", port)  # nothing listens there
    assert not is_on_loopback_alone("no such host", port)


def test_a_cluster_of_other_versions_is_refused_with_both() -> None:
    ray = RuntimeError(  # as Ray 2.60 says it
        "Version mismatch: The cluster was started with:\n    Ray: 2.55.1\n    Python: 3.11.7\n"
        "This process on node 127.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
    )
    says = (
        "--ray auto: the cluster runs Ray 2.55.1 on Python 3.11.7, and this process Ray 2.60.0 on Python 3.12.1; "
        "install the same on all nodes"
    )
    assert str(other_versions("auto", ray)) == says
    assert other_versions("auto", RuntimeError("no token")) is None


def test_the_cluster_that_is_meant_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert started_before() is None
    latest = tmp_path / "ray" / "ray_current_cluster"
    latest.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        for text, found in {f"{address}\n": address, "no address": None, "": None}.items():
            latest.write_text(text)
            assert started_before() == found
        latest.write_text(address)
    assert started_before() is None  # it has ended
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    assert started_before() == "192.0.2.1:6379"
