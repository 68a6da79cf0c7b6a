"""Flower's own mods understood as obfuscations, and ours inside Flower: numbers of the real mods, in this process."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("flwr", reason="Flower is not installed here; make test-integrations tests with it")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

from flwr.app import Array, ArrayRecord, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod, message_size_mod  # noqa: E402

from integrations.flower_app import Net, client_app, first_weights  # noqa: E402
from unveil import obfuscations  # noqa: E402
from unveil.audits.recorded import privacy  # noqa: E402
from unveil.captures.conversion import update_of  # noqa: E402
from unveil.captures.flower import drive, obfuscation_mod, recognised, recording_mod, recording_strategy  # noqa: E402
from unveil.captures.obfuscating import generator_for  # noqa: E402
from unveil.captures.reading import read_recording  # noqa: E402
from unveil.captures.recording import Recording  # noqa: E402
from unveil.core.errors import UsageError  # noqa: E402
from unveil.core.update import Update  # noqa: E402
from unveil.privacy.gaussian import epsilon_of  # noqa: E402


def played(folder: Path, *mods: Any, **config: Any) -> Recording:
    """What a client with these mods sends in one round."""
    path = drive(client_app(mods), first_weights(), folder, config={"lr": 0.01, **config})
    return read_recording(path)


def norm(tensors: Any) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def plain(tmp_path: Path) -> Update:
    return update_of(played(tmp_path / "plain"), Net())


@pytest.mark.parametrize("mod", [fixedclipping_mod, adaptiveclipping_mod])
@pytest.mark.parametrize("bound", [0.05, 1.5, 100.0])
def test_clipping_is_our_clip_of_the_norm_that_is_left_for_the_parameters(
    tmp_path: Path, mod: Any, bound: float
) -> None:
    own = plain(tmp_path)
    recording = played(tmp_path, recognised(mod), clipping_norm=bound)
    received = update_of(recording, Net())
    everything = norm(played(tmp_path / "again").changes.values())
    assert everything > 2 > norm(own.tensors.values())  # the counter alone has changed by 2
    spec = recording.manifest.obfuscation.value
    assert spec is not None
    left = norm(own.tensors.values()) * bound / everything if bound < everything else bound
    clip: Any = obfuscations.parse(spec)
    assert (clip.name, clip.norm) == ("clip", pytest.approx(left, rel=1e-6))
    ours = clip(own, generator=torch.Generator())
    for name, tensor in ours.tensors.items():
        assert torch.allclose(received.tensors[name], tensor, atol=1e-6)
    assert recording.manifest.buffers.value == "obfuscated"


def test_clipping_leaves_the_counters_as_they_are_and_shortens_the_statistics(tmp_path: Path) -> None:
    recording = played(tmp_path, recognised(fixedclipping_mod), clipping_norm=0.05)
    assert int(recording.changes["body.1.num_batches_tracked"]) == 2  # far above the bound
    own = played(tmp_path / "plain")
    share = norm([recording.changes["body.1.running_var"]]) / norm([own.changes["body.1.running_var"]])
    assert share == pytest.approx(0.05 / norm(own.changes.values()), rel=1e-4)


def test_local_dp_is_our_dpsgd(tmp_path: Path) -> None:
    own = plain(tmp_path)
    torch.manual_seed(0)
    mod = LocalDpMod(clipping_norm=0.5, sensitivity=0.1, epsilon=2.0, delta=1e-5)
    recording = played(tmp_path, recognised(mod))
    sigma = 0.1 * math.sqrt(2 * math.log(1.25 / 1e-5)) / 2.0
    ours: Any = obfuscations.parse(recording.manifest.obfuscation.value or "")
    assert ours.clip == pytest.approx(
        norm(own.tensors.values()) * 0.5 / norm(played(tmp_path / "plain").changes.values())
    )
    assert ours.noise * ours.clip == pytest.approx(sigma)
    facts = recording.manifest
    assert (facts.update_clip.value, facts.claimed_epsilon.value, facts.delta.value) == (0.5, 2.0, 1e-5)
    (stated,) = privacy.stated(facts, ours, is_gradient=False, pictures=4, buffers="obfuscated")
    assert (stated.claimed, stated.epsilon) == (2.0, pytest.approx(epsilon_of(1e-5, 2 * 0.5 / sigma)))
    received = update_of(recording, Net())
    clipped = ours.parts[0](own, generator=torch.Generator())
    noise = torch.cat([(received.tensors[name] - t).flatten() for name, t in clipped.tensors.items()])
    assert float(noise.std()) == pytest.approx(sigma, rel=0.15)  # 700 values
    assert abs(float(noise.mean())) < 5 * sigma / math.sqrt(len(noise))


def test_local_dp_makes_running_variances_negative(tmp_path: Path) -> None:
    negative = []
    for number in range(20):  # Flower's noise has no seed: of each of these, half of the entries are negative
        recording = played(tmp_path / str(number), recognised(LocalDpMod(1.0, 1.0, 0.01, 1e-5)))
        negative += [t < 0 for name, t in recording.client.items() if name.endswith("running_var")]
    share = float(torch.cat(negative).double().mean())
    assert 0.2 < share < 0.8
    ours = played(tmp_path / "ours", obfuscation_mod("dpsgd:clip=1,noise=5", seed=0))
    assert bool((ours.client["body.1.running_var"] > 0).all())


def test_other_mods_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one of Flower's fixedclipping_mod"):
        recognised(message_size_mod)
    with pytest.raises(UsageError, match="answered with an error: fixedclipping_mod requires the key 'clipping_norm'"):
        played(tmp_path, recognised(fixedclipping_mod))


def test_several_mods_are_a_pipeline_in_the_order_of_their_work(tmp_path: Path) -> None:
    mods = [
        recognised(fixedclipping_mod),
        obfuscation_mod("topk:density=0.05"),
        obfuscation_mod("fp16", buffers="kept"),
    ]
    recording = played(tmp_path, *mods, clipping_norm=100.0)
    assert recording.manifest.obfuscation.value == "fp16+topk:density=0.05+clip:norm=100"
    assert obfuscations.parse(recording.manifest.obfuscation.value)


SPECS = ["topk:density=0.05", "qsgd:levels=16,norm=max", "fp16", "powersgd:rank=2", "dpsgd:clip=0.1,noise=0.1"]


@pytest.mark.parametrize("spec", SPECS)
def test_our_mod_sends_what_our_obfuscation_makes_of_the_change(tmp_path: Path, spec: str) -> None:
    """The difference that a server takes is the obfuscated one, up to the rounding of weights of at most 1."""
    own = plain(tmp_path)
    mod = obfuscation_mod(spec, seed=3)
    recording = played(tmp_path, mod)
    assert recording.manifest.obfuscation.value == spec
    received = update_of(recording, Net())
    generator = generator_for(3, "partition-0", 1)
    expected = obfuscations.parse(spec)(Update({n: t.clone() for n, t in own.tensors.items()}), generator=generator)
    for name, tensor in expected.tensors.items():
        assert torch.allclose(received.tensors[name], tensor, atol=1e-7, rtol=1e-6)
        if expected.coding.sparse:
            assert torch.equal(received.tensors[name] == 0, tensor == 0)


def test_randomness_differs_by_client_and_round_and_is_the_systems_without_a_seed() -> None:
    clients = [(client, number) for client in ("partition-0", "partition-1") for number in (1, 2, None)]
    assert len({generator_for(0, client, number).initial_seed() for client, number in clients}) == 6
    assert generator_for(None, "a", 1).initial_seed() != generator_for(None, "a", 1).initial_seed()


@pytest.mark.parametrize(
    ("buffers", "changed", "count"), [("sent", True, 2), ("kept", False, 0), ("obfuscated", True, 2)]
)
def test_buffers_go_out_by_their_setting(tmp_path: Path, buffers: Any, changed: bool, count: int) -> None:
    recording = played(tmp_path, obfuscation_mod("sign:scale=true", buffers=buffers))
    change = recording.changes["body.1.running_mean"]
    assert bool(change.any()) is (buffers != "kept")
    assert int(recording.changes["body.1.num_batches_tracked"]) == count
    lengths = change.abs()
    assert torch.allclose(lengths, lengths.mean(), rtol=1e-4) is (buffers != "sent")  # signs have one length
    assert recording.manifest.buffers.value == buffers


def failing(tmp_path: Path, spec: str, sent: dict[str, Tensor], **kwargs: Any) -> None:
    app = ClientApp(mods=[obfuscation_mod(spec, **kwargs)])

    @app.train()
    def train(message: Message, context: Any) -> Message:
        record = ArrayRecord({name: Array(tensor.numpy()) for name, tensor in sent.items()})
        return Message(content=RecordDict({"arrays": record}), reply_to=message)

    drive(app, {name: torch.zeros(2) for name in ("weight", "0", "1")} | {"2": torch.tensor(1)}, tmp_path)


@pytest.mark.parametrize(
    ("sent", "kwargs", "says"),
    [
        ({"weight": torch.tensor([1.0, float("inf")])}, {}, "holds NaN or infinite values"),
        ({"other": torch.ones(2)}, {}, "the server sent nothing of that name and shape"),
        ({"weight": torch.ones(3)}, {}, "the server sent nothing of that name and shape"),
        ({"0": torch.ones(2), "2": torch.tensor(2)}, {}, "arrays have numbers instead of names, and some are buffers"),
        ({"0": torch.ones(2), "1": torch.ones(2)}, {"order": ["weight"]}, "the order has 1 names for 2 arrays"),
    ],
)
def test_nothing_is_sent_that_could_not_be_obfuscated(tmp_path: Path, sent: Any, kwargs: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        failing(tmp_path, "topk:density=0.5", sent, **kwargs)


def test_a_recorder_that_fails_lets_the_client_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "unveil"):
        played(tmp_path / "outer", recording_mod(tmp_path / "file" / "x"))
    assert "unveil did not record an update: cannot write to" in caplog.text


def test_what_is_no_strategy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a strategy of Flower"):
        recording_strategy(object(), tmp_path)
