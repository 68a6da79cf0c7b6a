"""An enhancer between attack and scores: held to the update, controlled, recorded, refused where it would cheat."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fakes import Towards, small_client
from seeds import seeded, shifted
from unveil import obfuscations
from unveil.attacks import parse as parse_attack
from unveil.attacks.separation.with_restorer import RestoredFeatureInversion
from unveil.audits.controls import LABELS
from unveil.audits.results import append, prepare, read_trials
from unveil.audits.trial import LABEL_ALONE, LABEL_MATCHED, run_trial
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.fingerprints import fingerprints
from unveil.core.objectives import OBJECTIVES
from unveil.core.protocols import Knowledge
from unveil.core.reconstruction import FeatureFit, Reconstruction
from unveil.core.records import ATTACK, ENHANCED
from unveil.core.update import Update
from unveil.enhancers.consistency import enhance, polyak_steps, refuse_seen
from unveil.enhancers.generator import ClassConditionalGenerator
from unveil.enhancers.learned import Learned
from unveil.enhancers.restorer import Restorer
from unveil.enhancers.weights import save_weights


@pytest.fixture
def attacked() -> tuple[torch.nn.Module, Batch, Update, Knowledge, Reconstruction]:
    model, batch = small_client()
    update = Update(FedSGD()(model, batch))
    knowledge = Knowledge(
        training=FedSGD(),
        image_shape=(3, 8, 8),
        num_images=4,
        classes=10,
        labels=batch.labels,
        obfuscation=obfuscations.parse("none"),
    )
    noise = 0.2 * torch.randn(batch.images.shape, generator=seeded(1))
    rough = Reconstruction(images=(batch.images + noise).clamp(0, 1), labels=batch.labels, losses=[])
    return model, batch, update, knowledge, rough


def test_a_restorer_that_is_right_is_believed(attacked) -> None:  # type: ignore[no-untyped-def]
    model, batch, update, knowledge, rough = attacked
    found, enhancement = enhance(Towards(batch.images), rough, model=model, update=update, knowledge=knowledge)
    assert enhancement.share == 1
    assert enhancement.misfit_after < enhancement.misfit_before
    torch.testing.assert_close(found.images, batch.images)


@pytest.mark.parametrize("wrong", ["inverted", "grey", "another"])
def test_a_restorer_never_takes_pictures_further_from_the_update(attacked, wrong: str) -> None:  # type: ignore[no-untyped-def]
    model, batch, update, knowledge, rough = attacked
    other = {"inverted": 1 - batch.images, "grey": torch.full_like(batch.images, 0.5), "another": batch.images.flip(0)}
    found, enhancement = enhance(Towards(other[wrong]), rough, model=model, update=update, knowledge=knowledge)
    assert enhancement.misfit_after <= enhancement.misfit_before
    if enhancement.share == 0:
        assert torch.equal(found.images, rough.images)


def test_what_is_led_back_is_nearer_to_the_update_than_what_came_in(attacked) -> None:  # type: ignore[no-untyped-def]
    model, batch, update, knowledge, rough = attacked
    distance = OBJECTIVES["misfit"](update, knowledge)

    def misfit(images: Tensor) -> Tensor:
        return distance(knowledge.training.simulate(model, Batch(images, batch.labels)))[None]

    before = misfit(rough.images).detach()
    images = polyak_steps(rough.images, misfit, 0.5 * before, steps=3)
    assert float(misfit(images).detach()) < float(before)
    assert torch.equal(polyak_steps(rough.images, misfit, before, steps=3), rough.images)  # nothing to mend


def brightness_off(batch: Batch) -> Callable[[Tensor], Tensor]:
    """A chi squared that knows nothing but how bright each picture is."""
    return lambda images: 100 * (images.mean((1, 2, 3)) - batch.images.mean((1, 2, 3))).square()


def test_each_picture_is_led_back_by_itself_and_only_in_what_it_is_asked_for(attacked) -> None:  # type: ignore[no-untyped-def]
    _, batch, *_ = attacked
    images = (batch.images + torch.tensor([0.0, 0.2, -0.2, 0.1])[:, None, None, None]).clamp(0, 1)
    goal = torch.tensor([0.0, 0.01, 0.02, 100.0])
    led = polyak_steps(images, brightness_off(batch), goal, steps=40)
    assert torch.equal(led[0], images[0])
    assert torch.equal(led[3], images[3])
    assert (brightness_off(batch)(led) <= goal).all()
    inside = (led[1] > 0.3) & (led[1] < 0.7)  # the clamp moved nothing here
    moved = (led[1] - images[1])[inside]
    torch.testing.assert_close(moved, moved.mean().expand_as(moved), atol=1e-4, rtol=0)


def test_features_lead_a_restorer_back_to_the_update(attacked) -> None:  # type: ignore[no-untyped-def]
    model, batch, update, knowledge, rough = attacked
    evidence = FeatureFit(noise=torch.full((4,), 0.1), miss=torch.full((4,), 0.1))
    wrong = Towards(1 - batch.images)
    shares = []
    for chi_squared in (None, lambda images: 1e4 * (images - batch.images).square().mean((1, 2, 3))):
        guess = dataclasses.replace(rough, evidence=dataclasses.replace(evidence, chi_squared=chi_squared))
        _, enhancement = enhance(wrong, guess, model=model, update=update, knowledge=knowledge)
        assert enhancement.misfit_after <= enhancement.misfit_before
        shares.append(enhancement.share)
    assert shares[1] > shares[0]


def test_where_the_update_is_exact_a_restorer_may_change_a_third_at_most(attacked) -> None:  # type: ignore[no-untyped-def]
    model, batch, update, knowledge, rough = attacked
    exact = dataclasses.replace(rough, evidence=FeatureFit(noise=torch.full((4,), 1e-4), miss=torch.full((4,), 0.1)))
    _, enhancement = enhance(Towards(batch.images), exact, model=model, update=update, knowledge=knowledge)
    assert enhancement.share == 0.3


def test_a_generator_is_not_held_and_its_misfit_is_reported(attacked) -> None:  # type: ignore[no-untyped-def]
    model, batch, update, knowledge, rough = attacked
    drawn = Towards(1 - batch.images, is_faithful=False)
    found, enhancement = enhance(drawn, rough, model=model, update=update, knowledge=knowledge)
    assert torch.equal(found.images, 1 - batch.images)
    assert enhancement.misfit_after > enhancement.misfit_before


@pytest.fixture(scope="module")
def client() -> Client:
    return make_client(name="client", model="lenet", images="builtin", size=16, batch=3, training=FedSGD())


def weights(path: Path, network: Restorer | ClassConditionalGenerator, seen: Tensor | None = None) -> Learned:
    torch.nn.init.normal_(network.body.last.weight, std=0.02)
    seen = torch.zeros((0, 32), dtype=torch.uint8) if seen is None else seen
    save_weights(network, path, seen=seen, card={})
    return Learned(path.name, path)


@pytest.mark.slow
def test_a_trial_tells_what_the_enhancer_changed(client: Client, tmp_path: Path) -> None:
    torch.manual_seed(shifted(0))
    enhancer = weights(tmp_path / "r.safetensors", Restorer(widths=(4, 6), blocks=1))
    obfuscation, attack = obfuscations.parse("none"), parse_attack("unveil:steps=3")
    plain = run_trial(client, obfuscation, attack, seed=0, controls=(LABELS,))
    trial = run_trial(client, obfuscation, attack, seed=0, controls=(LABELS,), enhancer=enhancer)
    assert trial.settings["enhancer"] == str(enhancer)
    assert list(plain.outcomes) == [ATTACK]
    assert "enhancer" not in plain.settings
    own, enhanced = trial.outcomes[ATTACK], trial.outcomes[ENHANCED]
    assert dataclasses.replace(own, seconds=0.0) == dataclasses.replace(plain.final, seconds=0.0)
    assert any("learned prior (r.safetensors@" in text for text in enhanced.assumptions)
    assert own.seconds < enhanced.seconds
    assert trial.scores == enhanced.scores != plain.scores
    assert enhanced.controls[LABELS] != own.controls[LABELS]
    assert enhanced.enhancement is not None
    assert enhanced.enhancement.misfit_after <= enhanced.enhancement.misfit_before
    prepare(tmp_path / "kept", {})
    kept = append(tmp_path / "kept", trial)
    own, enhanced = kept.outcomes[ATTACK], kept.outcomes[ENHANCED]
    assert all((tmp_path / "kept" / path).is_file() for path in (*own.images, *enhanced.images))
    assert set(enhanced.images).isdisjoint(own.images)
    assert enhanced.enhancement is not None
    assert enhanced.enhancement.prior_only == []
    assert read_trials(tmp_path / "kept") == [kept]


@pytest.mark.slow
def test_what_a_generator_draws_from_the_label_alone_is_a_control(client: Client, tmp_path: Path) -> None:
    torch.manual_seed(shifted(0))
    enhancer = weights(
        tmp_path / "g.safetensors", ClassConditionalGenerator(names=("cat", "coffee"), widths=(4, 6), blocks=1)
    )
    trial = run_trial(
        client,
        obfuscations.parse("qsgd:levels=2"),
        parse_attack("unveil:steps=2"),
        seed=0,
        controls=(LABELS,),
        enhancer=enhancer,
    )
    assert set(trial.final.controls) == {LABELS, LABEL_ALONE, LABEL_MATCHED}
    alone, matched = (trial.final.controls[name]["psnr"] for name in (LABEL_ALONE, LABEL_MATCHED))
    assert sum(matched) >= sum(alone) - 0.5  # matched by squared error, not by decibels
    assert "The attacker knows the names of the classes." in trial.final.assumptions
    assert "class of 2 of 3" in " ".join(trial.final.notes)
    before = trial.outcomes[ATTACK]
    assert set(before.controls) == {LABELS}
    assert "class of 2 of 3" not in " ".join(before.notes)
    prepare(tmp_path / "kept", {})
    enhancement = append(tmp_path / "kept", trial).final.enhancement
    assert enhancement is not None
    assert len(enhancement.prior_only) == 3
    assert all((tmp_path / "kept" / path).is_file() for path in enhancement.prior_only)


def test_pictures_that_an_enhancer_knows_by_heart_are_refused(client: Client, tmp_path: Path) -> None:
    seen = fingerprints(client.batch.images[1:2])
    enhancer = weights(tmp_path / "s.safetensors", Restorer(widths=(4, 6), blocks=1), seen)
    with pytest.raises(UsageError, match=r"1 of the 3 pictures .*the first: picture 2"):
        run_trial(
            client,
            obfuscations.parse("none"),
            parse_attack("unveil:steps=2"),
            seed=0,
            enhancer=enhancer,
        )
    refuse_seen(enhancer, client.batch.images[:1])
    refuse_seen(Towards(client.batch.images), client.batch.images)  # not a learned one: it has seen nothing


def test_so_are_pictures_that_an_attacks_own_prior_knows(client: Client, tmp_path: Path) -> None:
    seen = fingerprints(client.batch.images[:1])
    prior = weights(tmp_path / "p.safetensors", Restorer(widths=(4, 6), blocks=1), seen)
    with pytest.raises(UsageError, match="1 of the 3 pictures"):
        run_trial(client, obfuscations.parse("none"), RestoredFeatureInversion(steps=2, prior=prior), seed=0)


@pytest.mark.slow
def test_the_attack_restores_with_the_prior_that_is_checked(tmp_path: Path) -> None:
    """One that makes every pixel brighter leaves brighter pictures: no second prior is used in its place."""
    pictures = load_pictures("builtin", count=2, size=16)
    model = build_model("lenet", image_shape=(3, 16, 16), classes=10, seed=0)
    batch = Batch(pictures.images, pictures.labels % 10)
    knowledge = Knowledge(
        training=FedSGD(),
        image_shape=(3, 16, 16),
        num_images=2,
        classes=10,
        labels=batch.labels,
        obfuscation=obfuscations.parse("none"),
    )
    means = []
    for brighter in (0.0, 0.4):
        network = Restorer(widths=(4, 6), blocks=1)
        with torch.no_grad():
            network.body.last.bias[:12] = brighter  # 3 colours x 2 x 2 pixels
            network.body.last.bias[12:] = -3  # sure of each pixel to about 1e-4
        prior = weights(tmp_path / f"{brighter}.safetensors", network)
        attack = RestoredFeatureInversion(steps=12, prior=prior)
        assert str(attack) == f"unveil+:steps=12@prior={prior}"
        guess = attack(model, Update(FedSGD()(model, batch)), knowledge, generator=seeded(0))
        means.append(float(guess.images.mean()))
    assert means[1] > means[0] + 0.2


def test_a_generator_is_no_restorer(tmp_path: Path) -> None:
    drawer = weights(tmp_path / "g.safetensors", ClassConditionalGenerator(names=["horse"], widths=(4, 6), blocks=1))
    with pytest.raises(UsageError, match="draws pictures and restores none"):
        drawer.restored(torch.rand(1, 3, 8, 8), torch.zeros(1, 3))
