"""The laws that every metric of pixels obeys; those that need weights or a classifier are tried in `tests/metrics`."""

import pytest

from instances import METRICS
from seeds import shifted
from unveil.metrics import CATALOGUE
from unveil.testing import check_metric


def test_every_catalogued_metric_is_tried_here() -> None:
    assert set(METRICS) == set(CATALOGUE)


@pytest.mark.parametrize("name", METRICS)
def test_the_laws_of_metrics(name: str) -> None:
    check_metric(CATALOGUE[name], seed=shifted(0))
