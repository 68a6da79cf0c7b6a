"""The laws that every enhancer obeys, over every one that ships."""

import pytest

from instances import ENHANCERS
from seeds import shifted
from unveil.enhancers import CATALOGUE, parse
from unveil.testing import check_enhancer


def test_every_catalogued_enhancer_is_tried_here() -> None:
    assert set(ENHANCERS) == set(CATALOGUE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENHANCERS)
def test_the_laws_of_enhancers(name: str) -> None:
    enhancer = parse(name)
    assert enhancer is not None
    check_enhancer(enhancer, seed=shifted(0))
