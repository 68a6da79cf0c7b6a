"""SPECs and audit files made at random, as the tests make them: each is used, or refused in one sentence.

A refusal is a `UsageError`, which the command line ends with exit code 2. Any other exception would be exit code 3.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.frame import ROOT, Result
from unveil.core.errors import UsageError


def specs(*, count: int, number: int = 0) -> Result:
    """Read this many texts as SPECs of every kind.

    Args:
        count: How many texts.
        number: Seed of the texts.
    """
    tests = _tests("core.test_specs")

    def read(text: str) -> bool:
        fine = False
        for kind, parse in tests.PARSERS.items():
            if kind == "enhancer" and text in tests.enhancers.CATALOGUE:
                continue  # they are large, and tried elsewhere
            try:
                parse(text)
                fine = True
            except UsageError:
                pass
        return fine

    return _tried(read, st.one_of(tests.made_up, tests.mangled()), count, number)


def audit_files(folder: Path, *, count: int, number: int = 0) -> Result:
    """Read this many audit files, damaged ones and sound ones with strange overrides in turn.

    Args:
        folder: An empty folder to work in.
        count: How many.
        number: Seed of the files.
    """
    tests = _tests("audits.test_audit_files")
    path = folder / "audit.toml"
    override = st.builds("{}={}".format, st.sampled_from(tests.KEYS), tests.VALUES)
    variants = st.sampled_from([None, None, "x", ""])

    def read(given_: tuple[bytes | None, list[str], str | None]) -> bool:
        content, overrides, variant = given_
        path.write_bytes(tests.BASE.encode() if content is None else content)
        return not tests.refusal(path, overrides, variant)

    strange = st.tuples(st.none(), st.lists(override, min_size=1, max_size=2), st.none())
    broken = st.tuples(tests.damaged(), st.just([]), variants)
    return _tried(read, st.one_of(strange, broken), count, number)


def _tried(read: Callable[[Any], bool], strategy: st.SearchStrategy[Any], count: int, number: int) -> Result:
    counts: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    slowest = 0.0

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(value: Any) -> None:
        nonlocal slowest
        began = time.process_time()
        try:
            counts["used" if read(value) else "refused"] += 1
        except Exception as error:
            counts["wrong"] += 1
            wrong.setdefault(f"{type(error).__name__}: {str(error)[:80]}", repr(value)[:300])
        slowest = max(slowest, time.process_time() - began)

    one()
    return {"texts": sum(counts.values()), **counts, "slowest": round(slowest, 2), "wrong": [*wrong.items()]}


def _tests(module: str) -> Any:
    """A module of the tests, which has the strategies."""
    if str(ROOT / "tests") not in sys.path:
        sys.path.append(str(ROOT / "tests"))
    return importlib.import_module(module)
