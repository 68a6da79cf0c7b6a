"""What a manifest says becomes a local training and an obfuscation; what it leaves open is said in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audits.recorded.recordings import of_facts
from unveil.audits.recorded.assumptions import obfuscation_of, training_of
from unveil.captures.manifest import declared
from unveil.clients.training import parse
from unveil.core.errors import UsageError

SGD = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "mode": "eval"}


@pytest.mark.parametrize(
    ("facts", "spec"),
    [
        ({"learning_rate": 0.1, "steps": 3}, "fedavg:steps=3,lr=0.1"),
        ({"learning_rate": 0.1, "epochs": 2, "batch_size": 4}, "fedavg:epochs=2,lr=0.1,batch_size=4"),
        ({"learning_rate": 0.1, "epochs": 2, "batch_size": 4, "steps": 4}, "fedavg:steps=4,lr=0.1,batch_size=4"),
        ({"learning_rate": 0.1, "epochs": 2, "batch_size": 64}, "fedavg:epochs=2,lr=0.1"),
        ({"learning_rate": 0.1, "steps": 1, "momentum": 0.9}, "fedavg:steps=1,lr=0.1,momentum=0.9"),
        ({"learning_rate": 0.1, "steps": 1, "weight_decay": 0.5}, "fedavg:steps=1,lr=0.1,weight_decay=0.5"),
        ({"learning_rate": 0.1, "steps": 1, "mode": "train"}, "fedavg:steps=1,lr=0.1,mode=train"),
        ({"learning_rate": 0.5, "steps": 2, "loss_reduction": "sum"}, "fedavg:steps=2,lr=4"),
        (
            {"learning_rate": 0.5, "steps": 2, "loss_reduction": "sum", "batch_size": 4, "weight_decay": 0.5},
            "fedavg:steps=2,lr=2,batch_size=4,weight_decay=0.125",
        ),
    ],
)
def test_facts_become_a_local_training(facts: dict[str, Any], spec: str) -> None:
    assumed = training_of(of_facts(**SGD | facts), pictures=8, has_buffers=False)
    assert assumed.training == parse(spec)
    assert assumed.scale
    assert assumed.divisor == 1


def test_a_sum_over_the_batch_is_its_mean_times_its_size() -> None:
    """One step of a summed loss moves a weight as the assumed training says: both by hand, for a mean of 8."""
    given = SGD | {"learning_rate": 0.5, "steps": 1, "loss_reduction": "sum", "weight_decay": 0.1}
    training: Any = training_of(of_facts(**given), pictures=8, has_buffers=False).training
    mean, weight = 0.25, 2.0
    assert 0.5 * (8 * mean + 0.1 * weight) == pytest.approx(training.lr * (mean + training.weight_decay * weight))
    divided = training_of(of_facts(gradient=True, loss_reduction="sum"), pictures=8, has_buffers=False)
    assert divided.divisor == 8


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"learning_rate": 0.1}, "does not say the number of steps"),
        ({"steps": 3}, "does not say the learning rate: the update is taken for one gradient of unknown length."),
        ({}, "does not say the learning rate and number of steps"),
        ({"learning_rate": 0.1, "steps": 1, "loss": "other"}, "loss is not the plain cross-entropy"),
        ({"learning_rate": 0.1, "steps": 10**9}, "took 1,000,000,000 local steps, and at most 1,000 are simulated"),
        ({"learning_rate": 0.1, "epochs": 501, "batch_size": 4}, "took 1,002 local steps, and at most 1,000"),
        ({"learning_rate": 0.1, "steps": 3, "optimiser": "Adam"}, "optimiser is Adam, which unveil does not simulate"),
    ],
)
def test_what_cannot_be_simulated_is_one_gradient_of_unknown_length(facts: dict[str, Any], says: str) -> None:
    assumed = training_of(of_facts(**SGD | facts), pictures=8, has_buffers=False)
    assert assumed.training == parse("fedsgd")
    assert not assumed.scale
    (note,) = assumed.notes
    assert says in note


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("mode", "The recording does not say the network's mode: eval mode is assumed."),
        ("optimiser", "The recording does not say the optimiser: SGD is assumed."),
        ("momentum", "The recording does not say the momentum: none is assumed."),
        ("batch_size", "The recording does not say the batch size: every step is taken to have all pictures."),
    ],
)
def test_every_gap_is_said(missing: str, says: str) -> None:
    known = SGD | {"learning_rate": 0.1, "steps": 3, "batch_size": 8}
    assert training_of(of_facts(**known), pictures=8, has_buffers=False).notes == ()
    del known[missing]
    assert training_of(of_facts(**known), pictures=8, has_buffers=False).notes == (says,)


def test_the_order_of_mini_batches_is_never_known() -> None:
    known = SGD | {"learning_rate": 0.1, "epochs": 1, "batch_size": 4}
    (note,) = training_of(of_facts(**known), pictures=8, has_buffers=False).notes
    assert note == "The recording does not say the order of the mini-batches: that of the pictures is assumed."


def test_changed_buffers_mean_train_mode_and_are_sent() -> None:
    assert str(training_of(of_facts(gradient=True), pictures=8, has_buffers=True).training) == (
        "fedsgd:mode=train,buffers=sent"
    )
    given = of_facts(gradient=True, buffers="obfuscated", mode="train")
    assert str(training_of(given, pictures=8, has_buffers=True).training) == "fedsgd:mode=train,buffers=obfuscated"


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"steps": 5, "epochs": 2, "batch_size": 4}, "5 steps are not 2 epochs of 8 pictures in batches of 4"),
        ({"steps": 2, "batch_size": 3, "loss_reduction": "sum"}, "batches of 3 do not divide 8 pictures"),
    ],
)
def test_facts_that_contradict_one_another_are_refused(facts: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=f"{says}.*; correct .* with --fact"):
        training_of(of_facts(**SGD | facts | {"learning_rate": 0.1}), pictures=8, has_buffers=False)


def test_an_obfuscation_is_one_of_unveils_own() -> None:
    assert obfuscation_of(declared()) is None
    for spec in ("topk:density=0.05", "topk:density=0.05+qsgd:levels=16", "none"):
        assert str(obfuscation_of(declared(obfuscation=spec))) == spec
    with pytest.raises(UsageError, match="has no setting 'densty'"):
        obfuscation_of(declared(obfuscation="topk:densty=0.05"))


@pytest.mark.parametrize(
    "spec", ["spy:Channel", "spy:Channel:density=1", "topk:density=0.1+spy:Channel", "none + spy:Channel", "spy"]
)
def test_an_obfuscation_in_a_file_imports_nothing(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spy.py").write_text("open('imported', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="has a stage 'spy', which is none of unveil's own; leave it unknown"):
        obfuscation_of(declared(obfuscation=spec))
    assert not (tmp_path / "imported").exists()
