"""Behind a trained head images are told apart by their closed gates, and nothing changes where turns explain it all."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seeds import seeded
from unveil.attacks import ClosedGatesTuning, FactorisationTuning
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.attack import FeatureInversion
from unveil.attacks.separation.closed_gates import column_space, find_rows
from unveil.attacks.separation.factorisation import FeatureEstimate, first_guess, separate
from unveil.attacks.separation.heads.head import Head, read_head
from unveil.attacks.separation.refinement import FeatureRefiner
from unveil.attacks.separation.trained_heads import lengths_of, separate_trained
from unveil.attacks.separation.weighted_lstsq import explained
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.protocols import Knowledge
from unveil.core.update import Update
from unveil.obfuscations import parse as obfuscation_of

SHAPE, CLASSES = (3, 16, 16), 6
LABELS = torch.tensor([0, 1, 1, 2, 2, 2, 3, 5])  # two classes more than once
NOISE = "gaussian:relative=0.3"


def network(images: Tensor) -> nn.Sequential:
    """A convolution and two Linear layers, float64; each unit of the first is open for a quarter of these pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()).double()
        first, last = nn.Linear(8 * 8 * 8, 160).double(), nn.Linear(160, CLASSES).double()
    with torch.no_grad():
        first.bias -= first(body(images)).quantile(0.75, dim=0)
    return nn.Sequential(*body, first, nn.ReLU(), last)


@cache
def client() -> tuple[nn.Sequential, Batch]:
    """A network whose last layer is trained on 60 synthetic pictures, of which the client has eight."""
    images = dead_leaves(60, SHAPE, generator=seeded(3)).double()
    model = network(images)
    labels = torch.cat([LABELS, torch.randint(CLASSES, (52,), generator=seeded(4))])
    with torch.no_grad():
        inside = model[:-1](images)
    adam = torch.optim.Adam(model[-1].parameters(), lr=1e-2)
    for _ in range(150):
        adam.zero_grad()
        F.cross_entropy(model[-1](inside), labels).backward()
        adam.step()
    for parameter in model.parameters():
        parameter.grad = None
    return model, Batch(images[:8], LABELS)


@cache
def case(obfuscation: str = "none") -> tuple[Head, Tensor, Tensor, FeatureEstimate]:
    """The head, the true features, the received gradient of its first weight, and what the alternations make of it."""
    model, batch = client()
    head = read_head(model, SHAPE, training=FedSGD())
    update = obfuscation_of(obfuscation)(Update(FedSGD()(model, batch)), generator=seeded(5))
    gradients = [update.tensors[name] for name in head.weights]
    _, errors = first_guess(head, gradients, batch.labels, gain=1.0, tuning=FactorisationTuning(), generator=seeded(6))
    with torch.no_grad():
        truth = head.features(batch.images)
    return head, truth, gradients[0], separate(errors, gradients[0], ridge=1e-3)


def by_gates(obfuscation: str = "none", **settings: Any) -> FeatureEstimate:
    head, truth, gradient, turns = case(obfuscation)
    return separate_trained(
        head,
        gradient,
        LABELS,
        turns,
        gain=1.0,
        usual=float(truth.square().mean().sqrt()),
        entry_model=None,
        misfit=lambda errors, guess: -explained(errors, gradient),
        tuning=ClosedGatesTuning(**settings),
    )


def matched(found: Tensor, truth: Tensor) -> Tensor:
    """Relative error of each true row, where images of one class may have changed places."""
    off = (found[:, None] - truth[None]).norm(dim=2) / truth.norm(dim=1)
    return off.min(0).values


@pytest.mark.slow
def test_features_behind_a_trained_head_are_exact_without_obfuscation() -> None:
    head, truth, _, turns = case()
    certain = head.layers(truth, LABELS)[-1].outputs.softmax(1).amax(1)
    assert float(certain.max()) > 2 / CLASSES  # it is trained: the alternations start from equal probabilities
    found = by_gates(ridge=1e-12)
    assert float(matched(turns.features, truth).max()) > 0.1
    assert float(matched(found.features, truth).max()) < 1e-4
    assert found.residual < 1e-9 < turns.residual


@pytest.mark.slow
@pytest.mark.parametrize("obfuscation", ["none", NOISE, "topk:density=0.1", "sign"])
def test_less_is_left_unexplained_than_by_the_alternations_or_these_are_returned(obfuscation: str) -> None:
    turns = case(obfuscation)[3]
    found = by_gates(obfuscation)
    assert found is turns or found.residual < turns.residual


@pytest.mark.slow
def test_the_space_of_the_columns_is_that_of_the_errors() -> None:
    head, truth, gradient, _ = case()
    errors = head.layers(truth, LABELS)[0].errors
    space, share = column_space(gradient, len(LABELS), rounds=2, generator=seeded(0))
    torch.testing.assert_close(errors @ space @ space.T, errors, rtol=0, atol=1e-9 * float(errors.abs().max()))
    assert share == pytest.approx(1, abs=1e-12)


@pytest.mark.slow
def test_the_head_gives_each_row_its_length() -> None:
    head, truth, gradient, _ = case()
    space, _ = column_space(gradient, len(LABELS), rounds=2, generator=seeded(0))
    tuning = ClosedGatesTuning()
    found = find_rows(space, head.weight(1), LABELS, tuning=tuning, generator=seeded(0))
    assert sorted(found.labels.tolist()) == LABELS.tolist()
    single = separate(found.rows, gradient, ridge=1e-12)
    lengths = lengths_of(head, single, found, share=1 / len(LABELS), usual=1.0, tuning=tuning)
    true = head.layers(truth, LABELS)[0].errors
    nearest = (found.rows @ F.normalize(true, dim=1).T).argmax(1)
    torch.testing.assert_close(lengths, true.norm(dim=1)[nearest], rtol=1e-4, atol=0)


@pytest.mark.slow
def test_a_head_whose_gradient_is_explained_is_left_alone() -> None:
    head, truth, gradient, _ = case()
    exact = separate(head.layers(truth, LABELS)[0].errors, gradient)
    kept = separate_trained(
        head,
        gradient,
        LABELS,
        exact,
        gain=1.0,
        usual=1.0,
        entry_model=None,
        misfit=lambda errors, guess: pytest.fail("two separations were compared"),
        tuning=ClosedGatesTuning(),
    )
    assert kept is exact


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("explained", 1.0),
        ("worth", 1e9),
        ("space_rounds", 0),
        ("tries", 1),
        ("rounds", 1),
        ("threshold", 1.0),
        ("most_off", 0.05),
        ("same_row", 0.01),
        ("row_trust", 1e3),
        ("first_size_spread", 1e-3),
        ("size_spread", 1e-3),
        ("ridge", 0.1),
    ],
)
def test_each_constant_counts(field: str, value: float) -> None:
    usual, changed = by_gates(NOISE), by_gates(NOISE, **{field: value})
    assert usual is not case(NOISE)[3]
    assert not torch.equal(usual.features, changed.features)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 0.0) for name in ("explained", "threshold", "most_off", "same_row", "row_trust")),
        *((name, 0.0) for name in ("first_size_spread", "size_spread", "ridge")),
        *((name, 0.5) for name in ("worth", "floors", "noisy_floors")),
        *((name, 0) for name in ("tries", "rounds")),
        ("space_rounds", -1),
    ],
)
def test_values_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"ClosedGatesTuning: expected .*{field}.*leave it out"):
        ClosedGatesTuning(**{field: value})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([2], "The update says too little of image 3 of the result to tell it apart"),
        ([0, 4], "The update says too little of images 1, 5 of the result to tell them apart"),
    ],
)
def test_the_result_says_whose_errors_were_not_found(rows: list[int], sentence: str) -> None:
    head, truth, gradient, _ = case()
    errors = head.layers(truth, LABELS)[0].errors
    refiner = FeatureRefiner(
        head=head,
        gradient=gradient,
        entry_model=None,
        labels=LABELS,
        training=FedSGD(),
        gain=1.0,
        once=1.0,
        estimated=False,
        tuning=FactorisationTuning(),
        errors=errors,
    )
    assert refiner.lost == ()
    known = torch.ones(len(LABELS), dtype=torch.bool)
    known[rows] = False
    lost = replace(refiner, errors=errors * known[:, None])
    assert lost.lost == tuple(row + 1 for row in rows)
    assert any(note.startswith(sentence) for note in lost.notes)
    assert not any("says too little" in note for note in refiner.notes)


@pytest.mark.slow
def test_more_of_the_pictures_comes_back_behind_a_trained_head() -> None:
    model, batch = client()
    through = obfuscation_of("none")
    knowledge = Knowledge(
        training=FedSGD(),
        image_shape=SHAPE,
        num_images=len(LABELS),
        classes=CLASSES,
        labels=LABELS,
        obfuscation=through,
    )
    update = through(Update(FedSGD()(model, batch)), generator=seeded(0))

    def off(attack: FeatureInversion) -> float:
        found = attack(model, update, knowledge, generator=seeded(0)).images.double()
        return float((found[:, None] - batch.images[None]).square().mean((2, 3, 4)).min(0).values.mean())

    assert off(FeatureInversion()) < 0.9 * off(FeatureInversion(closed_gates=ClosedGatesTuning(explained=1.0)))
