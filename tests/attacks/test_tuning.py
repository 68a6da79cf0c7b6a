"""The constants of unveil's own attack: each does something, is named in results, and has a range."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from seeds import seeded
from unveil import obfuscations
from unveil.attacks import parse
from unveil.attacks.separation.attack import FeatureInversion
from unveil.attacks.separation.tuning import FactorisationTuning, SearchTuning
from unveil.attacks.separation.with_restorer import RestoredFeatureInversion
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.protocols import Knowledge
from unveil.core.types import Images
from unveil.core.update import Update
from unveil.enhancers.consistency import ConsistencyTuning

SIDE = 16


@cache
def received(network: str, obfuscation: str, labels: tuple[int, ...]) -> tuple[nn.Module, Update, Knowledge]:
    """What the attacker has of three pictures of these classes."""
    images = load_pictures("builtin", count=3, size=SIDE).images
    batch = Batch(images, torch.tensor(labels))
    torch.manual_seed(0)
    model: nn.Module = {
        "lenet": lambda: build_model("lenet", image_shape=(3, SIDE, SIDE), classes=10, seed=0),
        "two layers": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(8 * (SIDE // 2) ** 2, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        ),
        "pooled": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        ),
    }[network]()
    through = obfuscations.parse(obfuscation)
    knowledge = Knowledge(
        training=FedSGD(),
        image_shape=(3, SIDE, SIDE),
        num_images=3,
        classes=10,
        labels=batch.labels,
        obfuscation=through,
    )
    return model, through(Update(FedSGD()(model, batch)), generator=seeded(1)), knowledge


@cache
def pictures(
    attack: FeatureInversion | RestoredFeatureInversion, network: str, obfuscation: str, labels: tuple[int, ...]
) -> Images:
    model, update, knowledge = received(network, obfuscation, labels)
    return attack(model, update, knowledge, generator=seeded(0)).images


QSGD = "qsgd:levels=4,norm=max"
OTHER: dict[str, tuple[Any, str, str]] = {
    "first_ridge": (0.1, "two layers", QSGD),
    "reread_ridge": (0.1, "two layers", QSGD),
    "first_rounds": (0, "lenet", QSGD),
    "reread_rounds": (0, "two layers", QSGD),
    "weak_equation": (1.0, "two layers", "none"),
    "pattern_rounds": (1, "two layers", QSGD),
    "drive_log_odds": (30.0, "two layers", QSGD),
    "pattern_tries": (3, "two layers", "none"),
    "fewest_open": (0.9, "two layers", "none"),
    "same_pattern": (0.1, "two layers", "none"),
    "learning_rates": ((0.1,) * 5, "lenet", "none"),
    "feature_floors": ((0.5,) * 5, "lenet", "none"),
    "matched_learning_rate": (0.1, "pooled", "none"),
    "final_divisor": (2.0, "lenet", "none"),
    "adam_memory": (0.9, "lenet", "none"),
    "settled": (1e6, "lenet", "none"),
    "outside_price": (0.0, "lenet", "none"),
    "noisy_weight": (1.0, "lenet", QSGD),
    "noise_response": (1e3, "lenet", QSGD),
    "reference_sensitivity": (1.0, "lenet", "none"),
    "sensitivity_exponent": (0.0, "lenet", "none"),
    "colour_weight": (1.0, "lenet", "none"),
    "edge_softness": (1.0, "lenet", "none"),
    "matched_divisor": (1.0, "pooled", "none"),
    "start_divisor": (2, "pooled", "none"),
}
"""Field -> another value, and a network and an obfuscation where it counts."""


TUNINGS: dict[str, type[FactorisationTuning] | type[SearchTuning]] = {
    "factorisation": FactorisationTuning,
    "search": SearchTuning,
}


def test_no_field_is_left_out() -> None:
    fields = {name for kind in TUNINGS.values() for name in kind.__dataclass_fields__}
    elsewhere = {"restored_learning_rate", "restored_feature_floor"}  # below
    judged = {"least_error"}  # of the evidence; it is there against a division by zero
    assert fields - set(OTHER) == elsewhere | judged


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER)
def test_each_field_changes_the_pictures_and_is_named_in_results(name: str) -> None:
    value, network, obfuscation = OTHER[name]
    (part,) = (part for part, kind in TUNINGS.items() if name in kind.__dataclass_fields__)
    labels = (1, 1, 2) if name in ("pattern_tries", "pattern_rounds", "fewest_open", "same_pattern") else (1, 3, 2)
    settings: dict[str, Any] = {"steps": 150 if name == "settled" else 6, "starts": 2 if network == "pooled" else 1}
    attack = FeatureInversion(**settings, **{part: TUNINGS[part](**{name: value})})
    assert str(attack).endswith(f"@{part}=({name}={value})")
    with pytest.raises(UsageError):
        parse(str(attack))  # a SPEC cannot say it
    usual = pictures(FeatureInversion(**settings), network, obfuscation, labels)
    assert not torch.equal(pictures(attack, network, obfuscation, labels), usual)


def test_the_stage_behind_the_restorer_has_constants_of_its_own() -> None:
    usual = RestoredFeatureInversion().schedule.separated[-1]
    other = RestoredFeatureInversion(
        search=SearchTuning(restored_learning_rate=0.5, restored_feature_floor=0.25)
    ).schedule
    assert (usual.lr, usual.floor) == (0.005, 0.05)  # type: ignore[attr-defined]
    assert (other.separated[-1].lr, other.separated[-1].floor) == (0.5, 0.25)  # type: ignore[attr-defined]
    assert other.separated[:-1] == RestoredFeatureInversion(search=other.separated[-1].tuning).schedule.separated[:-1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (FactorisationTuning, "first_ridge", 0.0),
        (FactorisationTuning, "first_rounds", -1),
        (FactorisationTuning, "weak_equation", 1.5),
        (SearchTuning, "learning_rates", (0.1,)),
        (SearchTuning, "feature_floors", (0.1, 0.1, 0.1, 0.1, -0.1)),
        (SearchTuning, "adam_memory", 1.0),
        (SearchTuning, "final_divisor", 0.5),
        (SearchTuning, "noisy_weight", float("nan")),
        (ConsistencyTuning, "shares", (1.0, 0.0)),
        (ConsistencyTuning, "nearly", 0.99),
        (ConsistencyTuning, "margin", 2.0),
    ],
)
def test_values_that_make_no_sense_are_refused(kind: type, name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{kind.__name__}: expected .*{name}.*leave it out|{name}.*give each stage"):
        kind(**{name: value})
