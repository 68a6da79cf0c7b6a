"""The whole fingerprint on updates of a small client."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seeds import seeded, shifted
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedAvg
from unveil.core.update import Update
from unveil.inspection.fingerprint.equals import same_families, same_settings, visible
from unveil.inspection.fingerprint.findings import Finding, Fingerprint
from unveil.inspection.fingerprint.fingerprint import EMPTY, ROUNDED, fingerprint
from unveil.obfuscations import CATALOGUE, parse

SENT = (
    *("none", "qsgd:levels=16,norm=max,bucket=512", "uniform:bits=4,range=minmax", "sign", "sign:scale=true"),
    *("fp16", "bf16", "blockwise8:block=1024", "nf4:block=64", "fp4:block=64", "topk:density=0.05"),
    *("topk:density=0.02,scope=update", "randomk:density=0.1", "powersgd:rank=2", "gaussian:relative=0.5"),
    *("laplace:relative=0.5", "dpsgd:clip=0.5,noise=0.01", "clip:norm=0.03", "soteria:pruning_rate=0.3"),
    *("topk:density=0.05+qsgd:levels=16,norm=max", "topk:density=0.01+sign:scale=true", "clip:norm=0.05+fp16"),
    *("gaussian:relative=0.3+fp16", "powersgd:rank=2+fp16", "topk:density=0.1+nf4:block=64"),
)
MOSTLY = (
    "qsgd:levels=16,norm=max",
    "qsgd:levels=64",
    "uniform:bits=6",
    "ternary",
)
"""How values were rounded, or TernGrad's clip, is told by statistics, and so not of every client."""

UNNAMED = frozenset({"percentile", "clamp", "svt", "layers"})
"""Names of obfuscations that the fingerprint does not know."""


def make_client(seed: int) -> Client:
    images = load_pictures("builtin", count=4, size=32).images
    model = build_model("lenet", image_shape=(3, 32, 32), classes=10, seed=shifted(seed))
    return Client(model, images, torch.tensor([3, 1, 8, 3]))


@pytest.fixture(scope="module")
def client() -> Client:
    return make_client(0)


def bare(update: Update) -> Update:
    """Tensors alone, as a file holds them."""
    return Update(update.tensors)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SENT)
def test_the_obfuscation_is_named(spec: str, client: Client) -> None:
    obfuscation = parse(spec)
    found = fingerprint(bare(client.update(obfuscation, seed=shifted())))
    assert same_families(found.obfuscation, obfuscation), found.spec
    assert same_settings(found.obfuscation, obfuscation), found.spec
    assert 0 < found.confidence <= 1


@pytest.mark.slow
@pytest.mark.parametrize("spec", MOSTLY)
def test_the_obfuscation_is_named_for_most_clients(spec: str) -> None:
    obfuscation = parse(spec)
    found = [fingerprint(bare(make_client(seed).update(obfuscation))).obfuscation for seed in range(5)]
    assert sum(same_families(one, obfuscation) for one in found) >= 3, found


@pytest.mark.slow
def test_a_percentile_is_told_as_the_largest_entries_of_the_update(client: Client) -> None:
    received = bare(client.update(parse("percentile:percent=95"), seed=shifted()))
    assert fingerprint(received).spec == "topk:density=0.05,scope=update"


def test_every_obfuscation_is_among_those_tried() -> None:
    tried = {stage.partition(":")[0] for spec in (*SENT, *MOSTLY) for stage in spec.split("+")}
    assert set(CATALOGUE) == tried | UNNAMED


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.003, 0.03])
def test_local_steps_are_no_obfuscation(lr: float, client: Client) -> None:
    assert fingerprint(bare(replace(client, training=FedAvg(steps=3, lr=lr)).update())).spec == "none"


@pytest.mark.slow
def test_only_the_tensors_are_read(client: Client) -> None:
    sent = client.update(parse("qsgd:levels=16,norm=max"), seed=1)
    lies = replace(sent, side={"uniform:bits=3": sent.tensors}, coding=replace(sent.coding, bits_per_value=2.0))
    assert fingerprint(lies) == fingerprint(bare(sent))


@pytest.mark.slow
def test_weights_that_were_recorded_hide_what_is_finer_than_they_are(client: Client) -> None:
    before = {name: p.detach() for name, p in client.model.named_parameters()}
    sent = client.update(parse("topk:density=0.05"), seed=1).tensors
    found = fingerprint(Update({name: before[name] - (before[name] - t) for name, t in sent.items()}), before=before)
    assert (found.spec, found.notes) == ("topk:density=0.05", (ROUNDED,))


def test_nothing_arrived() -> None:
    found = fingerprint(Update({"w": torch.zeros(3, 4)}))
    assert (found.spec, found.notes, found.confidence) == ("none", (EMPTY,), 1.0)


def test_zeros_behind_a_sparsifier_were_not_sent() -> None:
    update = Update({"w": torch.tensor([0.0, 2.0, 0.0, -1.0])})
    sparse = Fingerprint(findings=(Finding(spec="topk:density=0.5", confidence=0.9, evidence=""),))
    assert sparse.applied_to(update).count_sent("w") == 2
    assert Fingerprint().applied_to(update).count_sent("w") == 4


@pytest.mark.parametrize(
    ("spec", "seen"),
    [
        ("clip:norm=1+topk:density=0.1", "topk:density=0.1"),
        ("clip:norm=1+fp16", "clip:norm=1+fp16"),
        ("gaussian:sigma=1+qsgd:levels=4", "qsgd:levels=4"),
        ("gaussian:sigma=1+bf16", "gaussian:sigma=1+bf16"),
        ("dpsgd:clip=1,noise=0.5", "gaussian:sigma=0.5"),
        ("powersgd:rank=2+nf4", "powersgd:rank=2"),
        ("powersgd:rank=2+clip:norm=1", "powersgd:rank=2+clip:norm=1"),
    ],
)
def test_stages_that_leave_something_to_be_seen(spec: str, seen: str) -> None:
    assert "+".join(map(str, visible(parse(spec)))) == seen


@pytest.mark.parametrize(
    ("one", "other", "families", "settings"),
    [
        ("qsgd:levels=2,norm=max", "ternary:clip=none", True, True),
        ("gaussian:relative=0.1", "gaussian:snr_db=20", True, True),
        ("gaussian:relative=0.1", "laplace:relative=0.1", False, False),
        ("topk:density=0.05+qsgd:levels=16,norm=max", "topk:density=0.05+uniform:bits=5", True, True),
        ("qsgd:levels=16,norm=max", "uniform:bits=5", False, False),
        ("qsgd:levels=16,norm=max", "laplace:sigma=1+uniform:bits=5", True, True),
        ("randomk:density=0.1", "randomk:density=0.1,unbiased=true", True, True),
        ("topk:density=0.05", "topk:density=0.053", True, True),
        ("topk:density=0.05", "topk:density=0.06", True, False),
        ("topk:density=0.05", "topk:density=0.05,scope=update", True, False),
    ],
)
def test_classes_of_equals(one: str, other: str, families: bool, settings: bool) -> None:
    assert same_families(parse(one), parse(other)) is families
    assert same_settings(parse(one), parse(other)) is settings


@pytest.mark.slow
def test_no_noise_is_seen_in_linear_layers_of_a_small_batch() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(shifted())
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 80), nn.Tanh(), nn.Linear(80, 10))
    images = torch.rand((6, 3, 8, 8), generator=seeded())
    tensors: Mapping[str, Tensor] = Client(model, images, torch.arange(6)).update().tensors
    assert fingerprint(Update(tensors)).spec in ("none", "powersgd:rank=6"), "a batch of six has this rank as well"
