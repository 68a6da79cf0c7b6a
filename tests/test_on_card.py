"""The whole line of a trial on a pretended card: nothing meets a tensor of the other device, and results stay the same.

A pretended card computes with the processor, so that results are equal to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instances import PLAIN, TRAININGS, first_of_each
from pretended_card import CARD, CPU, PEAK_MIB, pretended_card
from seeds import seeded, shifted
from small_vit import small
from unveil.attacks import parse as attack_of
from unveil.attacks.dead_leaves import dead_leaves
from unveil.audits.controls import CONTROLS
from unveil.audits.pipeline import Outcome, play
from unveil.audits.threat_model import ThreatModel
from unveil.audits.trial import run_trial
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.clients.training import parse as training_of
from unveil.core.arithmetic import using
from unveil.core.batch import Batch
from unveil.core.protocols import HasEntryModels
from unveil.core.records import Trial
from unveil.core.update import Update
from unveil.enhancers import parse as enhancer_of
from unveil.obfuscations import parse as obfuscation_of
from zoo import build

QSGD = "qsgd:levels=16,norm=max"
SOLVED = ("attacks/separation/", "attacks/labels/", "core/spectra.py", "core/least_squares.py", "core/tracing.py")
"""Where more than a few numbers are float64 on a card: what equations give. docs/performance.md says so."""


@pytest.fixture(autouse=True)
def _computes_as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Without what only a processor does: slopes by blocks, the layout of AVX512, bfloat16."""
    monkeypatch.setattr("unveil.core.blocked_slopes._is_faster", lambda call: False)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    with using("float32"):
        yield


def peelable() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(shifted())
        body = [nn.Conv2d(3, 12, 5, 4, 2), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 48, 3, 1, 1)]
        head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5)]
        return nn.Sequential(*body, *head).eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "two Linear layers": (lambda: build("sequential"), 8),
    "pooled maps": (peelable, 16),
    "transformer": (small, 16),
    "batch norm": (lambda: build("batch norm"), 8),
    "a layer twice": (lambda: build("a layer twice"), 8),
}


def client_of(network: str, *, n: int = 2, training: str = "fedsgd") -> Client:
    build, size = NETWORKS[network]
    images = dead_leaves(n, (3, size, size), generator=seeded(3))
    known = torch.tensor([(3 * i) % 5 for i in range(n)])
    return Client(build(), images, known, training=training_of(training), classes=10 if network == "transformer" else 5)


def agree(make: Callable[[], Client], obfuscation: str, attack: str, *, unknown: tuple[str, ...] = ()) -> None:
    """Play on the processor and on the card, and compare."""

    def played(client: Client) -> Outcome:
        granted = ThreatModel(unknown)
        return play(client, obfuscation_of(obfuscation), attack_of(attack), threat_model=granted, seed=0)

    expected = played(make())
    with pytest.MonkeyPatch.context() as patch, pretended_card(patch):
        found = played(make().to(CARD))
        assert found.attack.images.device == CARD
        assert all(tensor.device == CARD for tensor in found.received.tensors.values())
        assert torch.equal(found.attack.images.cpu(), expected.attack.images)
    assert list(found.attack.losses) == list(expected.attack.losses)
    assert found.attack.notes == expected.attack.notes
    assert found.received.wire_bits == expected.received.wire_bits


@pytest.mark.parametrize("spec", first_of_each((*PLAIN, f"topk:density=0.2+{QSGD}")))
def test_every_obfuscation_sends_and_explains(spec: str) -> None:
    def judged(client: Client) -> tuple[Update, Tensor, list[Tensor]]:
        obfuscation = obfuscation_of(spec)
        received = client.update(obfuscation, seed=0)
        images = (0.5 * client.images).requires_grad_()
        misfit = obfuscation.misfit(received)(client.training.simulate(client.model, Batch(images, client.labels)))
        models = obfuscation.entry_models(received) if isinstance(obfuscation, HasEntryModels) else {}
        everything = (slice(None), slice(None))
        aims = [aim for name, of in models.items() for aim in of(received.tensors[name], everything)]
        return received, misfit, [*torch.autograd.grad(misfit, images), *aims]

    expected, least, others = judged(client_of("two Linear layers"))
    with pytest.MonkeyPatch.context() as patch, pretended_card(patch):
        received, misfit, found = judged(client_of("two Linear layers").to(CARD))
        assert {tensor.device for tensor in (*received.tensors.values(), misfit, *found)} == {CARD}
        assert torch.equal(misfit.cpu(), least)
        assert all(torch.equal(t.cpu(), expected.tensors[name]) for name, t in received.tensors.items())
        assert all(torch.equal(t.cpu(), other) for t, other in zip(found, others, strict=True))


@pytest.mark.parametrize("spec", first_of_each((*TRAININGS, "fedsgd:mode=train,buffers=sent")))
def test_every_training(spec: str) -> None:
    network = "two Linear layers" if "clip" in spec else "batch norm"
    agree(lambda: client_of(network, n=4, training=spec), QSGD, "inverting_gradients:steps=2")


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["unveil:steps=3", "unveil+:steps=3", "rog:steps=2", "idlg:steps=1"])
def test_every_attack(spec: str) -> None:
    agree(lambda: client_of("two Linear layers"), QSGD, spec)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "n", "obfuscation", "unknown"),
    [
        ("pooled maps", 1, "none", ()),
        ("transformer", 1, QSGD, ()),
        ("a layer twice", 2, "none", ()),
        ("two Linear layers", 4, "topk:density=0.2", ("labels",)),
    ],
)
def test_every_way_of_the_attack(network: str, n: int, obfuscation: str, unknown: tuple[str, ...]) -> None:
    agree(lambda: client_of(network, n=n), obfuscation, "unveil:steps=2", unknown=unknown)


@pytest.mark.slow
def test_a_trial_with_controls_and_enhancer() -> None:
    def scored(device: torch.device) -> Trial:
        client = make_client(name="c", model="lenet", images="builtin", size=16, batch=2, training=FedSGD()).to(device)
        return run_trial(
            client,
            obfuscation_of(QSGD),
            attack_of("rog:steps=1"),
            controls=CONTROLS[-1:],
            enhancer=enhancer_of("faithful"),
        )

    expected = scored(CPU)
    with pytest.MonkeyPatch.context() as patch, pretended_card(patch):
        found = scored(CARD)
    for name, outcome in expected.outcomes.items():
        assert found.outcomes[name].scores == outcome.scores
        assert found.outcomes[name].controls == outcome.controls
        assert outcome.controls
    assert found.versions["device"] == "cuda:0"
    assert found.peak_mib == PEAK_MIB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "training", "obfuscation", "attack"),
    [
        ("two Linear layers", "fedsgd", QSGD, "unveil:"),
        ("two Linear layers", "fedavg:steps=2,lr=0.01,momentum=0.9", "none", "rog:objective=misfit,"),
        ("two Linear layers", "fedsgd", "topk:density=0.2", "inverting_gradients:"),
    ],
)
def test_a_search_waits_once_in_several_steps_and_takes_none_in_float64(
    network: str, training: str, obfuscation: str, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unveil.attacks.matching.descent.LOOKED", 3)

    def waits(steps: int) -> Counter[tuple[str, str]]:
        with pytest.MonkeyPatch.context() as patch, pretended_card(patch) as card:
            client = client_of(network, training=training).to(CARD)
            play(client, obfuscation_of(obfuscation), attack_of(f"{attack}steps={steps}"))
        wide = {where for where, size in card.doubles.items() if size > 12}
        assert {where for where in wide if not where.startswith(SOLVED)} == set()
        return card.waits

    more = waits(30) - waits(15)
    assert {where for _, where in more} == {"attacks/matching/descent.py minimise"}
    assert more.total() <= (30 - 15) / 3
