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
        ({"learning_rate": 0.5, "steps": 2, "loss_reduction": "sum"}, "fedavg:steps=2,lr=0.5,reduction=sum"),
        (
            {"learning_rate": 0.5, "steps": 2, "loss_reduction": "sum", "batch_size": 4, "weight_decay": 0.5},
            "fedavg:steps=2,lr=0.5,batch_size=4,weight_decay=0.5,reduction=sum",
        ),
        ({"learning_rate": 0.1, "steps": 2, "label_smoothing": 0.1}, "fedavg:steps=2,lr=0.1,label_smoothing=0.1"),
        ({"learning_rate": 0.1, "steps": 2, "loss": "bce"}, "fedavg:steps=2,lr=0.1,loss=bce"),
        (
            {"learning_rate": 0.1, "steps": 2, "momentum": 0.9, "nesterov": True},
            "fedavg:steps=2,lr=0.1,momentum=0.9,nesterov=true",
        ),
        (
            {"learning_rate": 0.1, "steps": 2, "momentum": 0.9, "dampening": 0.1},
            "fedavg:steps=2,lr=0.1,momentum=0.9,dampening=0.1",
        ),
        (
            {"learning_rate": 0.1, "epochs": 2, "steps": 4, "batch_size": 3, "drop_last": True},
            "fedavg:steps=4,lr=0.1,batch_size=3,drop_last=true",
        ),
    ],
)
def test_facts_become_a_local_training(facts: dict[str, Any], spec: str) -> None:
    assumed = training_of(of_facts(**SGD | facts), pictures=8, has_buffers=False)
    assert assumed.training == parse(spec)
    assert assumed.scale


def test_a_gradient_of_another_loss_is_one_of_fedsgd() -> None:
    facts: dict[str, Any] = {"loss_reduction": "sum", "label_smoothing": 0.2, "mode": "eval"}
    training = training_of(of_facts(gradient=True, **facts), pictures=8, has_buffers=False).training
    assert str(training) == "fedsgd:reduction=sum,label_smoothing=0.2"


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"learning_rate": 0.1}, "does not say the number of steps"),
        ({"steps": 3}, "does not say the learning rate: the update is taken for one gradient of unknown length."),
        ({}, "does not say the learning rate and number of steps"),
        ({"learning_rate": 0.1, "steps": 1, "loss": "other"}, "loss is another one than cross_entropy, bce, mse"),
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


@pytest.mark.parametrize("facts", [{"steps": 1}, {"epochs": 1, "batch_size": 8}, {"steps": 1, "loss": "cross_entropy"}])
def test_one_step_of_adam_is_the_sign_of_a_gradient(facts: dict[str, Any]) -> None:
    assumed = training_of(of_facts(**SGD | facts | {"optimiser": "AdamW"}), pictures=8, has_buffers=False)
    assert (assumed.training, assumed.scale, str(assumed.obfuscation)) == (parse("fedsgd"), False, "sign")
    assert assumed.notes == ("One step of AdamW sends little but the signs of the gradient, and is taken for them.",)


@pytest.mark.parametrize("facts", [{"steps": 2}, {"steps": 1, "batch_size": 4}, {"steps": 1, "loss": "other"}])
def test_more_of_adam_is_not(facts: dict[str, Any]) -> None:
    assumed = training_of(of_facts(**SGD | facts | {"optimiser": "adam"}), pictures=8, has_buffers=False)
    assert assumed.obfuscation is None
    assert not assumed.scale


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
        ({"steps": 3, "epochs": 1, "batch_size": 3, "drop_last": True}, "3 steps are not 1 epochs of 8 pictures"),
        ({"epochs": 1, "batch_size": 9, "drop_last": True}, "with drop_last 8 pictures give no mini-batch of 9"),
        ({"steps": 1, "momentum": 0.0, "nesterov": True}, "FedAvg: nesterov needs momentum"),
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
