"""How many generated examples a law is tried on: few by default, as many as one likes by an environment variable.

UNVEIL_TEST_EXAMPLES=10000 .venv/bin/pytest tests/contracts/test_specs.py -k text
UNVEIL_TEST_EXAMPLES=1500 .venv/bin/pytest tests/test_audit_files.py -k every
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings

from seeds import shifted

EXAMPLES = int(os.environ.get("UNVEIL_TEST_EXAMPLES", "0"))


def tried(few: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator around `hypothesis.given`: `few` examples or `UNVEIL_TEST_EXAMPLES`, drawn from the run's seed."""
    rules = settings(
        max_examples=EXAMPLES or few,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        return rules(seed(shifted(0))(test))

    return decorate
