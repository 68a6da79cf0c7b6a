"""Hostile files and folders, each met by a command in a process of its own that is measured."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.frame import Result
from benchmarks.hostile import pictures, results, weights
from benchmarks.hostile.audits import NET, set_up
from benchmarks.hostile.cases import MARKUP, SECRET, Hostile
from benchmarks.hostile.children import Ended, called, warm

SECONDS, MIB = 1.0, 200.0
"""Most processor time of a command, and most memory above the size of the file that it meets."""

PATIENCE = 30.0
ERROR, NOTICE = "Error: ", "client "
"""How the sentence of an error begins, and those lines that an audit prints of its clients before."""

OWNED = "owned"  # a file that exists if code of a hostile file was run


def cases(good: Path) -> Iterator[Hostile]:
    """All cases; `good` is a results folder of an audit that ended."""
    yield from weights.cases()
    yield from pictures.cases()
    yield from results.cases(good)


def run(folder: Path, *, every: int = 1) -> Result:
    """Meet every case, or every n-th.

    Args:
        folder: An empty folder to work in.
        every: One case of this many is met.
    """
    warm()
    set_up(folder / "good")
    ended = called(("audit", "audit.toml", "--out", "out"), folder=folder / "good")
    assert ended.code == 0, ended.out
    counts: Counter[str] = Counter()
    bad: list[str] = []
    slowest, largest = (0.0, ""), (0.0, "")
    for number, case in enumerate(cases(folder / "good" / "out")):
        if number % every:
            continue
        place = folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "tiny_net.py").write_text(NET)
        case.make(place)
        size = max((path.lstat().st_blocks * 512 for path in place.rglob("*") if path.is_file()), default=0) / 2**20
        ended = called(case.args, folder=place, patience=PATIENCE)
        name = f"{case.kind}, {case.name[:60]}"
        counts[case.kind] += 1
        slowest = max(slowest, (round(ended.seconds, 2), name))
        largest = max(largest, (round(ended.mib - size, 1), name))
        bad += [f"{name}: {what}" for what in wrong(case, ended, place, size)]
    return {"cases": dict(counts), "slowest": slowest, "largest": largest, "wrong": bad}


def wrong(case: Hostile, ended: Ended, place: Path, size: float) -> list[str]:
    """What is wrong with how a command ended."""
    found: list[Any] = []
    if ended.code not in case.codes:
        found.append(f"exit {ended.code}, {ended.out[-300:]!r}")
    *before, last = ended.out.splitlines() or [""]
    if ended.code == 2 and not (last.startswith(ERROR) and all(line.startswith(NOTICE) for line in before)):
        found.append(f"{len(before) + 1} lines, the last {last[:80]!r}")
    if not all(letter.isprintable() or letter == "\n" for letter in ended.out):
        found.append("control characters")
    if (place / OWNED).exists():
        found.append("code was run")
    if ended.seconds > SECONDS:
        found.append(f"{ended.seconds:.1f} s")
    if ended.mib > MIB + size:
        found.append(f"{ended.mib:.0f} MiB, the file has {size:.0f}")
    for page in place.rglob("report.html"):
        text = page.read_text(errors="replace")
        if SECRET in text or "root:x:0" in text:
            found.append("a secret is in the report")
        if MARKUP in text or re.search(r"<script|onerror=alert\(1\)>|src=[\"']?(http|file)", text):
            found.append("markup is in the report")
        if page.is_symlink():
            found.append("the report is a link")
    return found
