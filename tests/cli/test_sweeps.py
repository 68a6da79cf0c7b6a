"""`unveil audit --shard` and `unveil merge`: what they say, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.test_app import Call, call

__all__ = ["call"]


@pytest.mark.slow
def test_an_audit_in_two_parts(call: Call) -> None:
    answer = call("audit", "audit.toml", "--shard", "1/2")
    assert answer.code == 0
    assert "This is part 1 of 2, 1 trial of 2; `unveil merge DIR... --out DIR` joins" in answer.err
    answer = call("merge", "audits/audit-1-of-2", "--out", "whole")
    assert answer.code == 0
    assert answer.err == (
        "1 trial of the audit is in none of the folders; `unveil audit` with this --out runs what is missing.\n"
    )
    assert call("audit", "audit.toml", "--shard", "2/2").code == 0
    parts = ("audits/audit-2-of-2", "audits/audit-1-of-2")  # in any order
    answer = call("merge", *parts, "--out", "whole", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert [row["obfuscation"] for row in json.loads(answer.out)["rows"]] == ["none", "sign"]
    assert call("merge", *parts, "--out", "other").code == 0
    answer = call("report", "other")
    assert answer.out.index("\nnone ") < answer.out.index("\nsign ")
    assert Path("other/report.html").is_file()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("audit", "audit.toml", "--shard", "3/2"), "Error: --shard 3/2: expected a part from 1 to 2; count"),
        (("audit", "audit.toml", "--shard", "1/3"), "Error: --shard 1/3: the audit has only 2 trials"),
        (("merge", "absent", "--out", "whole"), "Error: absent is not a folder; give the --out folder of an audit"),
        (("merge", "absent"), "Error: Missing option '--out'"),
        (("merge", "--out", "whole"), "Error: Missing argument 'DIR...'"),
    ],
)
def test_what_is_no_part_and_cannot_be_joined(call: Call, args: tuple[str, ...], says: str) -> None:
    answer = call(*args)
    assert answer.code == 2
    assert says in answer.err
    assert not Path("whole").exists()
