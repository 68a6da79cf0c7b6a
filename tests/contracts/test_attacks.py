"""The laws that every attack obeys, over every entry of the catalogue."""

import pytest

from instances import ATTACKS
from seeds import shifted
from unveil.attacks import CATALOGUE, parse
from unveil.testing import check_attack


def test_every_catalogued_attack_is_tried_here() -> None:
    assert {spec.partition(":")[0] for spec in ATTACKS} == set(CATALOGUE)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ATTACKS)
def test_the_laws_of_attacks(spec: str) -> None:
    check_attack(parse(spec), seed=shifted(0))
