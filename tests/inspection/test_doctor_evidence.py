"""What the doctor tells from the numbers of an update that torch's own optimiser made, and what its facts repair."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unveil as uv
from cli.test_app import Call, call
from seeds import seeded, shifted
from unveil.audits.recorded.trial import run_recorded_trial
from unveil.captures.manifest import declared
from unveil.captures.reading import read_recording
from unveil.captures.recording import Recording
from unveil.captures.writing import write_recording
from unveil.clients.pictures import load_pictures
from unveil.inspection.doctor.checks import diagnose
from unveil.inspection.doctor.evidence import Evidence
from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.first_layer import first_layer
from unveil.inspection.doctor.gain import gains
from unveil.inspection.doctor.head import HeadEvidence
from unveil.inspection.doctor.momentum import Excess, excess
from unveil.inspection.fingerprint.fingerprint import fingerprint

__all__ = ["call"]

ATTACK = "unveil:steps=15"
MODEL = "inspection.test_doctor_evidence:lenet"

LABELS = torch.tensor([3, 1, 8, 3])
FACTS: Mapping[str, Any] = {
    "image_shape": [3, 16, 16],
    "classes": 10,
    "examples": 4,
    "learning_rate": 0.01,
    "steps": 1,
    "optimiser": "sgd",
    "momentum": 0.0,
    "obfuscation": "none",
}


def pictures() -> Tensor:
    return load_pictures("builtin", count=4, size=16).images


def lenet(seed: int = 0) -> nn.Module:
    """A convolution and two Linear layers for pictures of 16 px."""
    with torch.random.fork_rng():
        torch.manual_seed(shifted(seed))
        first = [nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*first, nn.Linear(1024, 96), nn.ReLU(), nn.Linear(96, 10))


def normed() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(shifted())
        units = [nn.Conv2d(3, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        more = [nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        return nn.Sequential(*units, *more, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def trained(
    network: nn.Module, images: Tensor, *, reduction: str = "mean", mode: str = "eval", **facts: Any
) -> tuple[Recording, nn.Module]:
    """The difference that one step of torch's SGD makes, and the network as it was; facts are the manifest's."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train(mode == "train")
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    nn.functional.cross_entropy(network(images), LABELS, reduction=reduction).backward()
    optimiser.step()
    delta = {name: tensor - before[name] for name, tensor in network.state_dict().items()}
    network.load_state_dict(before)
    manifest = replace(declared(**{**FACTS, "mode": mode, **facts}), order=tuple(delta))
    return Recording(path=Path("x"), digest="0" * 64, manifest=manifest, before=before, delta=delta), network


def reversed_(recording: Recording) -> Recording:
    return replace(recording, delta={name: -tensor for name, tensor in recording.delta.items()})


def named(recording: Recording, network: nn.Module) -> dict[str, str | None]:
    """Names of the faults that are no notes, and the facts that repair them."""
    return {one.name: one.fact for one in diagnose(recording, network).faults if one.severity != "note"}


def test_counts_of_classes_tell_the_length_exactly() -> None:
    """Three pictures of classes 0, 0 and 2 among four equally likely ones: the slopes are 1/4 - counts / 3."""
    slopes = torch.tensor([1 / 4 - 2 / 3, 1 / 4, 1 / 4 - 1 / 3, 1 / 4]).double()
    evidence = HeadEvidence(
        slopes=0.05 * slopes,
        variances=torch.zeros(4).double(),
        chances=torch.full((4,), 0.25).double(),
        chance_variances=torch.full((4,), 1e-4).double(),
        pictures=3,
        drift=0.0,
        moved=0.0,
    )
    found = gains(evidence, 0.01)
    assert found.best == pytest.approx(5, rel=0.03)
    assert found.best_counts.tolist() == [2, 0, 1, 0]
    assert found.interval(4.0, sign=-1) is None
    assert gains(replace(evidence, slopes=-evidence.slopes), 0.01).best == pytest.approx(-found.best)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("facts", "turned", "expected"),
    [
        ({}, False, {}),
        ({}, True, {"sign": "sign=reversed"}),
        ({"learning_rate": 0.1}, False, {"learning rate": "learning_rate=0.01"}),
        ({"learning_rate": 0.0005}, False, {"learning rate": "learning_rate=0.01"}),
        ({"learning_rate": 0.0005, "sign": "reversed"}, True, {"learning rate": "learning_rate=0.01"}),
        ({"loss_reduction": "sum"}, False, {"loss reduction": "loss_reduction=mean"}),
    ],
)
def test_sign_learning_rate_and_reduction_are_told(
    facts: Mapping[str, Any], turned: bool, expected: Mapping[str, str]
) -> None:
    recording, network = trained(lenet(), pictures(), **facts)
    assert named(reversed_(recording) if turned else recording, network) == expected


@pytest.mark.slow
def test_a_summed_loss_is_told_from_a_mean() -> None:
    assert named(*trained(lenet(), pictures(), reduction="sum")) == {"loss reduction": "loss_reduction=sum"}


@pytest.mark.slow
def test_weights_exchanged_with_those_after_have_no_fact() -> None:
    recording, network = trained(lenet(), pictures())
    after = {name: recording.before[name] + change for name, change in recording.delta.items()}
    swapped = replace(recording, before=after, delta={}, client=recording.before)
    (fault,) = diagnose(swapped, network).faults
    assert (fault.name, fault.fact) == ("sign", None)
    assert fault.fix == "global/ and client/ seem to be exchanged; record them the other way round"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_mode_is_told_by_weights_in_front_of_batchnorm(mode: str) -> None:
    """Without buffers, which would say it outright."""
    recording, network = trained(normed(), pictures(), mode=mode)
    delta = {name: t for name, t in recording.delta.items() if "running" not in name and "num_" not in name}
    before = {name: recording.before[name] for name in delta}
    manifest = replace(recording.manifest.declaring(buffers="kept"), order=tuple(delta))
    bare = replace(recording, delta=delta, before=before, manifest=manifest)
    assert named(bare, network) == {}
    other = "eval" if mode == "train" else "train"
    wrong = replace(bare, manifest=manifest.declaring(mode=other))
    assert named(wrong, network) == {"mode": f"mode={mode}"}


@pytest.mark.slow
def test_weights_of_another_start_are_not_those_of_the_update() -> None:
    recording, network = trained(lenet(), pictures())
    other = lenet(1).state_dict()
    found = diagnose(replace(recording, before=other), network)
    assert found.names == {"stale global weights"}
    assert {one.name for one in found.untold} >= {"sign", "learning rate", "mode", "normalisation"}


@pytest.mark.slow
def test_batchnorm_says_the_mean_of_the_pixels() -> None:
    """A first layer without padding: least squares gives the mean that the layer saw, weighted towards the middle."""
    images = torch.rand((4, 3, 16, 16), generator=seeded()) * torch.tensor([0.2, 0.6, 1.0])[:, None, None]
    recording, network = trained(normed(), images, mode="train")
    layer = first_layer(Examined.of(recording, network), images[:2])
    assert not isinstance(layer, str)
    assert float(layer.observed[0]) == pytest.approx((0.1 + 0.3 + 0.5) / 3, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("network", [lenet, normed])
def test_pictures_that_were_normalised_are_told_from_others(network: Any) -> None:
    half: Mapping[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    mode = "train" if network is normed else "eval"
    recording, built = trained(network(), (pictures() - 0.5) / 0.5, mode=mode, normalisation=half)
    assert named(recording, built) == {}
    silent = replace(recording, manifest=recording.manifest.declaring(normalisation=None))
    assert "normalisation" in named(silent, built)


@pytest.mark.slow
def test_momentum_of_an_earlier_round_exceeds_the_rank_of_the_pictures() -> None:
    recording, network = trained(lenet(), pictures())
    assert excess(Evidence(examined=Examined.of(recording, network))) is None
    name = "3.weight"  # 96 outputs, 4 pictures: rank 4; the earlier round had other pictures
    earlier = torch.randn((96, 4), generator=seeded()) @ torch.randn((4, 1024), generator=seeded(1))
    size = 0.1 * recording.delta[name].norm() / earlier.norm()
    carried = replace(recording, delta=dict(recording.delta) | {name: recording.delta[name] + size * earlier})
    found = excess(Evidence(examined=Examined.of(carried, network)))
    assert isinstance(found, Excess)
    assert (found.name, found.rank, found.most) == (name, 8, 4)
    assert found.share == pytest.approx(0.01, rel=0.4)  # what lies in the space of the pictures is not seen
    assert named(carried, network) == {"carried momentum": None}
    decayed = replace(recording, delta={n: t - 1e-4 * recording.before[n] for n, t in recording.delta.items()})
    assert "weight decay" in named(decayed, network)


@pytest.mark.slow
def test_dropout_in_eval_mode_empties_features() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(shifted())
        layers = [nn.Flatten(), nn.Linear(768, 400), nn.Tanh(), nn.Dropout(0.5), nn.Linear(400, 10)]
        recording, network = trained(nn.Sequential(*layers), pictures(), mode="train")
    lying = replace(recording, manifest=recording.manifest.declaring(mode="eval"))
    (fault,) = (one for one in diagnose(lying, network).faults if one.name == "dropout")
    assert "in front of '4.weight' are empty for all 4 pictures, 0 without dropout" in fault.evidence
    assert fault.fact == "mode=train"


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["sign", "learning rate"])
def test_the_fact_of_a_fault_repairs_the_audit(planted: str, tmp_path: Path, call: Call) -> None:
    """Inspect names the fact; with it the attack rebuilds the pictures, and without it does not."""
    recording, _ = trained(lenet(), pictures(), mode="eval")
    recording = reversed_(recording) if planted == "sign" else recording
    wrong = {} if planted == "sign" else {"learning_rate": 5.0}
    manifest = recording.manifest.declaring(**wrong, labels=LABELS.tolist())
    path = tmp_path / "wrong.safetensors"
    write_recording(path, manifest=manifest, before=recording.before, delta=recording.delta)
    answer = call("inspect", str(path), "--model", MODEL, "--json")
    (found,) = json.loads(answer.out)["diagnosis"]["faults"]
    assert found["name"] == planted
    assert f"--fact '{found['fact']}'" in call("inspect", str(path), "--model", MODEL).out
    name, _, value = found["fact"].partition("=")
    fact = {name: value if planted == "sign" else float(value)}
    fixed = read_recording(path)
    fixed = replace(fixed, manifest=fixed.manifest.declaring(**fact))
    before, after = (_psnr(one) for one in (read_recording(path), fixed))
    assert after > 20
    assert before < 14


def _psnr(recording: Recording) -> float:
    """Mean PSNR of what unveil's own attack rebuilds, in decibels."""
    client = uv.recorded_client(recording, MODEL)
    trial = run_recorded_trial(replace(client, truth=pictures()), uv.attacks.parse(ATTACK), seed=shifted())
    return mean(trial.outcomes["attack"].scores["psnr"])


@pytest.mark.slow
def test_a_sound_update_has_no_fault_and_its_fingerprint_is_none() -> None:
    recording, network = trained(lenet(), pictures())
    assert named(recording, network) == {}
    assert fingerprint(uv.Update({name: -t for name, t in recording.delta.items()})).spec == "none"
