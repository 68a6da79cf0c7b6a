"""Cohorts whose clients obfuscate their own updates: what the server sees, and what an attacker is granted of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fakes import Guess, small_client
from seeds import seeded
from unveil.audits.audit import Audit
from unveil.audits.pipeline import play
from unveil.audits.trial import run_trial
from unveil.clients.client import Client
from unveil.clients.cohort import of_cohort
from unveil.clients.training import parse as parse_training
from unveil.core.errors import UnattackableError, UsageError
from unveil.core.randomness import generators
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.mean_of_each import MeanOfEach, has_known_mean

SHARES = (0.6, 0.4)  # three pictures and two


def cohort(training: str = "fedsgd", *, size: int = 8, **changes: object) -> Client:
    model, batch = small_client(n=5, size=size)
    local = of_cohort(parse_training(training), 2)
    made = Client(model, batch.images, batch.labels, training=local, cohort=2, cohort_obfuscates="each")
    return replace(made, **changes)  # type: ignore[arg-type]


def by_hand(of: Client, training: str, obfuscation: str) -> list[Update]:
    """What the two clients send: each its own update, obfuscated by draws that follow those of the one before."""
    local, stage = parse_training(training), parse(obfuscation)
    for_training, for_obfuscation, _ = generators(3)
    found = []
    for rows in (slice(0, 3), slice(3, 5)):
        one = replace(of.holding(type(of.batch)(of.images[rows], of.labels[rows])), cohort=1)
        found.append(stage(Update(local(of.model, one.batch, generator=for_training)), generator=for_obfuscation))
    return found


@pytest.mark.parametrize("training", ["fedsgd", "fedavg:steps=2,lr=0.1"])
@pytest.mark.parametrize("obfuscation", ["qsgd:levels=4,norm=max", "gaussian:sigma=0.1", "topk:density=0.1"])
def test_the_server_sees_the_weighted_mean_of_what_each_client_sent(training: str, obfuscation: str) -> None:
    of = cohort(training)
    sent, expected = of.update(parse(obfuscation), seed=3), by_hand(of, training, obfuscation)
    for name, tensor in sent.tensors.items():
        mean = sum(share * one.tensors[name] for share, one in zip(SHARES, expected, strict=True))
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-8)
    assert sent.wire_bits == sum(one.wire_bits for one in expected)
    assert sent.in_full.wire_bits == 2 * 32 * sum(tensor.numel() for tensor in sent.tensors.values())


def granted(of: Client, obfuscation: str) -> tuple[Update, MeanOfEach]:
    """What an attack gets."""
    guess = Guess()
    outcome = play(of, parse(obfuscation), guess, seed=3)
    assert len(outcome.received.messages) == 2
    (knowledge,) = guess.granted
    assert isinstance(knowledge.obfuscation, MeanOfEach)
    assert str(knowledge.obfuscation) == obfuscation
    assert knowledge.obfuscation.family == parse(obfuscation).family
    return outcome.received, knowledge.obfuscation


def test_the_variance_of_noise_is_that_of_the_weighted_mean() -> None:
    received, known = granted(cohort(), "gaussian:sigma=0.1")
    assert {round(one.mean / known.alike, 12) for one in known.variances.values()} == {0.0052}  # (0.36 + 0.16) 0.01
    truth = cohort().update(parse("none")).tensors
    off = torch.cat([(received.tensors[name] - truth[name]).flatten() for name in truth])
    assert float(off.square().mean()) == pytest.approx(0.0052, rel=0.15)
    misfit = known.misfit(received)
    half_squares = sum(float((received.tensors[n] - t).square().sum()) / 2 for n, t in truth.items())
    assert float(misfit(truth)) == pytest.approx(half_squares / 0.0052 / off.numel(), rel=1e-3)
    model = known.entry_models(received)["head.weight"]
    target, weight = model(torch.zeros(10, 32), (slice(None), slice(None)))
    assert torch.equal(target, received.tensors["head.weight"])
    assert set(weight.flatten().tolist()) == {1.0}


def test_the_variance_of_a_quantiser_is_on_average_a_sixth_of_the_squared_steps_that_were_sent() -> None:
    received, known = granted(cohort(), "qsgd:levels=4,norm=max")
    expected = by_hand(cohort(), "fedsgd", "qsgd:levels=4,norm=max")
    for name in received.tensors:
        steps = [float(one.tensors[name].abs().max()) / 3 for one in expected]
        wanted = sum(share**2 * step**2 / 6 for share, step in zip(SHARES, steps, strict=True))
        assert known.variances[name].mean / known.alike == pytest.approx(wanted, rel=1e-5)


def test_what_no_client_sent_is_below_the_weighted_thresholds() -> None:
    received, known = granted(cohort(), "topk:density=0.1")
    expected = by_hand(cohort(), "fedsgd", "topk:density=0.1")
    name = "head.weight"
    smallest = [float(one.tensors[name].abs()[one.tensors[name] != 0].min()) for one in expected]
    threshold = sum(share * size for share, size in zip(SHARES, smallest, strict=True))
    assert known.thresholds[name] == pytest.approx(threshold, rel=1e-5)
    truth = cohort().update(parse("none")).tensors
    sent = received.sent(name)
    assert sent is not None
    unsent = ~sent
    assert float(truth[name].abs()[unsent].max()) <= threshold
    exact = {key: torch.where(received.tensors[key] != 0, received.tensors[key], 0.0) for key in truth}
    misfit = known.misfit(received)
    assert float(misfit(exact)) == 0.0
    beyond = {**exact, name: torch.where(unsent, 2 * threshold, exact[name])}
    assert float(misfit(beyond)) > 0.0
    assert float(known.misfit(received, sent_only=True)(beyond)) == 0.0
    target, weight = known.entry_models(received)[name](torch.full_like(truth[name], 1.0), (slice(None), slice(None)))
    assert torch.allclose(target[unsent], torch.full_like(target[unsent], threshold))
    assert set(weight[~unsent].tolist()) == {1.0}


def test_nothing_obfuscated_is_exact() -> None:
    guess = Guess()
    outcome = play(cohort(), parse("none"), guess, seed=3)
    (knowledge,) = guess.granted
    assert str(knowledge.obfuscation) == "none"
    truth = replace(cohort(), cohort_obfuscates="mean").update(parse("none"))
    for name, tensor in truth.tensors.items():
        torch.testing.assert_close(outcome.received.tensors[name], tensor, rtol=1e-4, atol=1e-8)
    assert outcome.received.wire_bits == 2 * truth.wire_bits


def test_layers_that_are_kept_back_are_kept_back_by_each() -> None:
    guess = Guess()
    outcome = play(cohort(), parse("layers:send=last+gaussian:sigma=0.1"), guess, seed=3)
    received, known = outcome.received, guess.granted[0].obfuscation
    assert set(received.tensors) == {"head.weight", "head.bias"}
    assert isinstance(known, MeanOfEach)
    assert known.variances["head.weight"].mean / known.alike == pytest.approx(0.0052)
    assert received.wire_bits == 2 * 32 * sum(tensor.numel() for tensor in received.tensors.values())


def test_an_attack_rehearses_with_the_mean_of_as_many_draws() -> None:
    _, known = granted(cohort(), "gaussian:sigma=0.1")
    blank = Update({"a": torch.zeros(100, 100)})
    assert float(known(blank, generator=seeded(0)).tensors["a"].std()) == pytest.approx(0.1 / 2**0.5, rel=0.05)


def test_a_trial_says_so_and_is_another_one() -> None:
    trial = run_trial(cohort(size=12), parse("fp16"), Guess())
    assert trial.settings["cohort_obfuscates"] == "each"
    (said,) = [text for text in trial.outcomes["attack"].assumptions if "mean of the updates of 2 clients" in text]
    assert "Each client obfuscates its own update, with draws of its own, before the mean." in said
    assert trial.raw_bits == 2 * trial.wire_bits
    assert (
        "cohort_obfuscates" not in run_trial(cohort(size=12, cohort_obfuscates="mean"), parse("fp16"), Guess()).settings
    )


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        ("none", True),
        ("fp16", True),
        ("uniform:bits=4", True),
        ("ternary:clip=none", True),
        ("topk:density=0.1+qsgd:levels=4", True),
        ("percentile:percent=90", True),
        ("qsgd:levels=4+topk:density=0.1", False),
        ("ternary", False),
        ("sign", False),
        ("randomk:density=0.1", False),
        ("clip:norm=1", False),
        ("clamp:limit=0.1", False),
        ("dpsgd:clip=1,noise=1", False),
        ("powersgd:rank=1", False),
        ("soteria:pruning_rate=0.4", False),
        ("layers:send=head+sign", False),
    ],
)
def test_what_is_not_known_of_a_mean_is_refused_before_anything_is_run(spec: str, known: bool) -> None:
    def audit() -> Audit:
        return Audit(clients=[cohort()], obfuscations=[parse(spec)], attacks=[Guess()], seeds=[0])

    if known:
        assert has_known_mean(parse(spec))
        assert len(audit()) > 0
        return
    says = r'went through .*; set cohort_obfuscates = "mean", or take noise, rounding, top-k or a percentile'
    with pytest.raises(UsageError, match=says):
        audit()
    with pytest.raises(UsageError, match=says):
        play(cohort(), parse(spec), Guess())


def test_several_rounds_of_clients_that_obfuscate_their_own_are_refused() -> None:
    with pytest.raises(UsageError, match="several rounds are not modelled; leave rounds out, or set cohort_obfuscates"):
        play(cohort(rounds=2), parse("fp16"), Guess())


def test_updates_of_zeros_are_told() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3, bias=False))
    blank = Client(model, torch.zeros(2, 3, 2, 2), torch.arange(2), cohort=2, cohort_obfuscates="each")
    with pytest.raises(UnattackableError, match="the update is all zeros"):
        blank.update(parse("fp16"))


def test_clients_with_the_same_pictures_draw_for_themselves() -> None:
    model, batch = small_client(n=1)
    twice = batch.images.repeat(2, 1, 1, 1), batch.labels.repeat(2)
    first, second = Client(model, *twice, cohort=2, cohort_obfuscates="each").update(parse("gaussian:sigma=1")).messages
    assert not torch.equal(first.tensors["head.weight"], second.tensors["head.weight"])
