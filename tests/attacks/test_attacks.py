"""Every preset runs by the contract; what comes back is in test_quality.py."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Generator, nn

from fakes import small_client, small_update
from seeds import seeded, shifted
from unveil.attacks import CATALOGUE, parse
from unveil.attacks.matching.descent import PATIENCE
from unveil.attacks.matching.latents import Code
from unveil.attacks.matching.loop import Matching
from unveil.attacks.matching.optimisers import Adam
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.protocols import Attack, Knowledge, LocalTraining
from unveil.core.reconstruction import Reconstruction, Stop
from unveil.core.update import Update
from unveil.core.watch import Progress
from unveil.metrics.pixel import psnr

SPECS = ["unveil", "unveil+", "rog", "rog:objective=misfit", "inverting_gradients", "dlg", "idlg"]
everyone = pytest.mark.parametrize("spec", SPECS)


def knowing(batch: Batch, training: LocalTraining | None = None, *, labels: bool = True, **more: object) -> Knowledge:
    shape = batch.images.shape
    return Knowledge(
        training=training or FedSGD(),
        image_shape=(shape[1], shape[2], shape[3]),
        num_images=len(batch),
        classes=10,
        labels=batch.labels if labels else None,
        obfuscation=more.get("obfuscation"),
    )


def short(spec: str, steps: int = 3) -> Attack:
    return parse(f"{spec}{',' if ':' in spec else ':'}steps={steps}")


def rng(seed: int = 0) -> Generator:
    return seeded(seed)


def test_every_catalogued_attack_is_tried_here() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} == set(CATALOGUE)


@pytest.mark.slow
@everyone
def test_the_contract(spec: str) -> None:
    model, batch = small_client()
    update, before = small_update(), copy.deepcopy(model.state_dict())
    steps: list[Progress] = []
    state = torch.get_rng_state()
    first = short(spec)(model, update, knowing(batch), generator=rng(), watch=steps.append)
    second = short(spec)(model, update, knowing(batch), generator=rng())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.images, second.images)
    assert first.images.shape == batch.images.shape
    assert 0 <= float(first.images.min()) <= float(first.images.max()) <= 1
    assert torch.equal(first.labels, batch.labels)
    assert [s.step for s in steps] == list(range(1, len(first.losses) + 1))
    assert steps[-1].images().shape == batch.images.shape
    assert first.stop is Stop.FINISHED
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(update.tensors.values(), small_update().tensors.values(), strict=True))


@everyone
def test_a_printed_attack_gives_its_spec_back(spec: str) -> None:
    assert str(parse(spec)) == spec
    assert str(short(spec, 7)).count("steps=7") == 1


@pytest.mark.parametrize("cls", CATALOGUE.values(), ids=str)
def test_no_attack_can_be_handed_the_private_batch(cls: type) -> None:
    parameters = inspect.signature(cls.__call__).parameters
    assert list(parameters) == ["self", "model", "update", "knowledge", "generator", "watch"]
    assert not any("Batch" in str(p.annotation) for p in parameters.values())


def photographs(n: int = 2, size: int = 32) -> tuple[nn.Module, Batch]:
    pictures = load_pictures("builtin", count=n, size=size)
    model = build_model("lenet", image_shape=(3, size, size), classes=10, seed=shifted(0))
    return model, Batch(pictures.images, pictures.labels)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["dlg", "idlg"])
def test_lbfgs_rebuilds_a_picture_of_a_smooth_net_almost_exactly(spec: str) -> None:
    model, batch = small_client(n=1)
    update = Update(FedSGD()(model, batch))
    guess = parse(f"{spec}:steps=60")(model, update, knowing(batch, labels=False), generator=rng(1))
    assert int(guess.labels) == int(batch.labels)
    assert float(psnr(batch.images, guess.images)) > 35


def matching(steps: int, lr: float = 0.05) -> Matching:
    return Matching(latent=Code(factor=2), objective="squared", optimiser=Adam(lr=lr, decay="cosine"), steps=steps)


def run(attack: Matching) -> Reconstruction:
    model, batch = small_client()
    return attack(model, small_update(), knowing(batch), generator=rng())


@pytest.mark.slow
def test_divergence_is_a_result_that_keeps_finite_images() -> None:
    model, batch = photographs()
    update = Update(FedSGD()(model, batch))
    guess = matching(50, lr=1e25)(model, update, knowing(batch), generator=rng())
    assert guess.stop is Stop.DIVERGED
    assert bool(torch.isfinite(guess.images).all())
    assert len(guess.losses) < 50


@pytest.mark.slow
def test_a_loss_that_no_longer_moves_ends_the_run() -> None:
    guess = run(matching(500, lr=1e-30))
    assert guess.stop is Stop.STALLED
    assert len(guess.losses) == PATIENCE + 1


def test_an_all_zero_update_is_said_to_be_one() -> None:
    model, batch = small_client()
    zeros = Update({name: torch.zeros_like(t) for name, t in small_update().tensors.items()})
    guess = parse("rog")(model, zeros, knowing(batch, labels=False), generator=rng())
    assert guess.stop is Stop.EMPTY
    assert bool((guess.images == 0.5).all())
    assert not guess.losses


def test_a_nan_or_foreign_update_is_one_clear_sentence() -> None:
    model, batch = small_client()
    tensors = dict(small_update().tensors)
    broken = {**tensors, "head.bias": torch.full((10,), torch.nan)}
    with pytest.raises(UsageError, match=r"tensor 'head\.bias' holds NaN"):
        parse("rog")(model, Update(broken), knowing(batch), generator=rng())
    with pytest.raises(UsageError, match="'other' is not a parameter"):
        parse("rog")(model, Update({**tensors, "other": torch.ones(1)}), knowing(batch), generator=rng())
    with pytest.raises(UsageError, match=r"has shape \(3,\), the model's has \(10,\)"):
        parse("rog")(model, Update({**tensors, "head.bias": torch.ones(3)}), knowing(batch), generator=rng())


@pytest.mark.slow
def test_unknown_labels_are_noted_and_the_channel_may_be_unknown() -> None:
    model, batch = small_client()
    knowledge = knowing(batch, labels=False)
    guess = short("rog:objective=misfit")(model, small_update(), knowledge, generator=rng())
    assert any("inferred" in note for note in guess.notes)
    assert "does not know the labels" in " ".join(knowledge.assumptions)
    assert "does not know which obfuscation" in " ".join(knowledge.assumptions)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rog:steps=0", "ROG: expected steps >= 1, got 0"),
        ("rog:factor=0.5", "expected factor >= 1"),
        ("rog:lr=0", "expected lr > 0"),
        ("rog:objective=cosine", "objective=cosine does not fit"),
        ("inverting_gradients:tv=-1", "expected tv >= 0"),
        ("unveil:starts=0", "FeatureInversion: expected starts >= 1, got 0"),
        ("rogg", "did you mean 'rog'"),
        ("dlg:stpes=3", "did you mean 'steps'"),
    ],
)
def test_bad_settings_are_one_clear_sentence(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(spec)
