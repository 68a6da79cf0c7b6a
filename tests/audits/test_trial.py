import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fakes import Erase, Guess, Sends
from unveil.attacks import parse as parse_attack
from unveil.audits.results import append, prepare
from unveil.audits.threat_model import ThreatModel
from unveil.audits.trial import run_trial
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.core.randomness import generators
from unveil.core.reconstruction import Stop
from unveil.metrics import CATALOGUE as METRICS
from unveil.obfuscations import parse as parse_obfuscation

BASELINE = parse_obfuscation("none")


@pytest.fixture(scope="module")
def client() -> Client:
    return make_client(name="client", model="lenet", images="builtin", size=16, batch=2, training=FedSGD())


def saved(folder: Path, paths: list[str]) -> Tensor:
    pictures = [np.asarray(Image.open(folder / path), dtype=np.float32) / 255 for path in paths]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def test_a_trial_from_client_to_scores(client: Client) -> None:
    trial = run_trial(client, parse_obfuscation("fp16"), parse_attack("rog:steps=2"), seed=3)
    assert dict(trial.settings) == {
        "client": "client",
        "model": "lenet",
        "images": "builtin",
        "batch": "2 x 3 x 16 x 16",
        "training": "fedsgd",
        "obfuscation": "fp16",
        "attack": "rog:steps=2",
        "threat_model": "everything known",
        "arithmetic": "float32",
    }
    assert trial.seed == 3
    assert trial.raw_bits == 2 * trial.wire_bits == 32 * sum(p.numel() for p in client.model.parameters())
    assert trial.iterations == len(trial.losses) == 2
    assert trial.stop is Stop.FINISHED
    assert trial.final.labels == client.batch.labels.tolist()
    assert trial.final.seconds > 0
    assert trial.versions["unveil"]
    assert any("knows the obfuscation (fp16)" in sentence for sentence in trial.final.assumptions)


def test_scores_are_of_the_pictures_as_saved(client: Client, tmp_path: Path) -> None:
    guess = Guess(images=(client.batch.images + 0.013).clone() * 1.1)  # not on the 8-bit grid, some above 1
    trial = run_trial(client, BASELINE, guess, seed=0)
    assert set(trial.scores) == set(trial.blind) == set(METRICS)
    prepare(tmp_path, {})
    trial = append(tmp_path, trial)
    originals, images = saved(tmp_path, trial.originals), saved(tmp_path, trial.final.images)
    assert torch.allclose(originals, client.batch.images, atol=1e-6)
    for name, metric in METRICS.items():
        assert trial.scores[name] == pytest.approx(metric.score(client.batch.images, images).tolist(), abs=1e-3)


def test_the_floor_is_a_blind_guess(client: Client) -> None:
    trial = run_trial(client, BASELINE, Guess(), seed=0)
    errors = (client.batch.images - 0.5).square().flatten(1).mean(1)
    assert trial.blind["psnr"] == pytest.approx([-10 * math.log10(error) for error in errors.tolist()], abs=1e-3)


def test_the_guess_is_put_into_the_order_of_the_batch(client: Client) -> None:
    trial = run_trial(client, BASELINE, Guess(images=client.batch.images.flip(0)), seed=0)
    assert min(trial.scores["psnr"]) > 40
    assert trial.final.labels == [1, 0]


def test_the_attacker_is_granted_what_the_settings_say(client: Client) -> None:
    guess = Guess()
    for words in ("everything known", "obfuscation+labels unknown"):
        trial = run_trial(client, BASELINE, guess, seed=0, threat_model=ThreatModel.parse(words))
        assert trial.settings["threat_model"] == words
    everything, less = guess.granted
    assert everything.labels is not None
    assert everything.obfuscation == BASELINE
    assert less.labels is None
    assert less.obfuscation is None


def test_no_generator_shifts_another(client: Client) -> None:
    plain = run_trial(client, BASELINE, Guess(), seed=0)
    noisy = run_trial(client, parse_obfuscation("gaussian:sigma=0.1"), Guess(), seed=0)
    assert noisy.scores == plain.scores  # the same guess, although the obfuscation drew numbers in between


@pytest.mark.slow
def test_the_seed_decides_everything(client: Client) -> None:
    attack, noise = parse_attack("rog:steps=2"), parse_obfuscation("gaussian:relative=1")
    first, again, other = (run_trial(client, noise, attack, seed=seed) for seed in (0, 0, 1))
    assert first.losses == again.losses
    assert first.scores == again.scores
    assert first.losses != other.losses


def test_generators_differ_from_each_other_and_between_seeds() -> None:
    drawn = [torch.rand(1, generator=rng).item() for seed in (0, 1) for rng in generators(seed)]
    assert len(set(drawn)) == 6


def test_an_update_of_zeros_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="the update is all zeros"):
        run_trial(dataclasses.replace(client, training=Sends(0.0)), BASELINE, Guess(), seed=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_refused(client: Client, value: float) -> None:
    with pytest.raises(UsageError, match=r"tensor '0\.weight' holds NaN"):
        run_trial(dataclasses.replace(client, training=Sends(value)), BASELINE, Guess(), seed=0)


@pytest.mark.parametrize("threat_model", [ThreatModel(), ThreatModel(("labels",))], ids=str)
def test_a_channel_that_leaves_only_zeros_is_a_result(client: Client, threat_model: ThreatModel) -> None:
    trial = run_trial(client, Erase(), parse_attack("rog"), seed=0, threat_model=threat_model)
    assert trial.stop is Stop.EMPTY
    assert trial.iterations == 0
    assert trial.scores["psnr"] == pytest.approx(trial.blind["psnr"], abs=0.1)


def test_divergence_is_a_result(client: Client) -> None:
    nothing = torch.full_like(client.batch.images, math.nan)
    trial = run_trial(client, BASELINE, Guess(images=nothing, losses=[1.0, math.nan], stop=Stop.DIVERGED), seed=0)
    assert trial.stop is Stop.DIVERGED
    assert trial.scores["psnr"] == pytest.approx(trial.blind["psnr"], abs=0.1)
    assert math.isnan(trial.losses[1])


def test_a_long_loss_curve_is_thinned_from_end_to_end(client: Client) -> None:
    losses = [float(step) for step in range(1000)]
    trial = run_trial(client, BASELINE, Guess(losses=losses), seed=0)
    assert trial.iterations == 1000
    assert len(trial.losses) == 200
    assert (trial.losses[0], trial.losses[-1]) == (0.0, 999.0)
    assert trial.losses == sorted(set(trial.losses))
