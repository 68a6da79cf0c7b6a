"""The laws that every training obeys, over every entry of the catalogue."""

import pytest

from instances import TRAININGS, first_of_each, spec_kind
from seeds import shifted
from unveil.clients.training import CATALOGUE, parse
from unveil.testing import check_training


def test_every_catalogued_training_is_tried_here() -> None:
    assert {spec.partition(":")[0] for spec in TRAININGS} == set(CATALOGUE)


@pytest.mark.parametrize("spec", first_of_each(TRAININGS, spec_kind))
def test_the_laws_of_trainings(spec: str) -> None:
    check_training(parse(spec), seed=shifted(0))
