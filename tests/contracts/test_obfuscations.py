"""The laws that every obfuscation obeys, over every entry of the catalogue and pipelines of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fakes import small_client, small_update
from instances import OBFUSCATIONS as SPECS
from instances import first_of_each, spec_kind
from seeds import seeded, shifted
from unveil.clients.training import FedSGD
from unveil.core import gradient
from unveil.core.batch import Batch
from unveil.core.binding import for_client
from unveil.core.factored import Candidate, Factored, dense
from unveil.core.protocols import HasEntryModels, MayRescale, Obfuscation
from unveil.core.update import Update
from unveil.obfuscations import CATALOGUE, parse
from unveil.testing import check_obfuscation

everyone = pytest.mark.parametrize(
    "obfuscation", first_of_each(map(parse, SPECS), lambda obfuscation: spec_kind(str(obfuscation))), ids=str
)


def send(obfuscation: Obfuscation, update: Update, seed: int = 0) -> Update:
    return for_client(obfuscation, *small_client(), FedSGD())(update, generator=seeded(seed))


def test_every_catalogued_obfuscation_is_tried_here() -> None:
    assert {part.partition(":")[0] for spec in SPECS for part in spec.split("+")} == set(CATALOGUE)


@pytest.mark.slow
@everyone
def test_the_laws_that_packages_of_others_can_run(obfuscation: Obfuscation) -> None:
    check_obfuscation(obfuscation, seed=shifted(0))


@pytest.mark.parametrize("spec", SPECS)
def test_a_printed_obfuscation_is_the_spec_that_built_it(spec: str) -> None:
    assert str(parse(spec)) == spec


def rivals(truth: Candidate) -> dict[str, Candidate]:
    """Updates of other clients, and the true one gone wrong."""
    model, batch = small_client()
    generator = seeded(5)
    noisy = (batch.images + 0.2 * torch.randn(batch.images.shape, generator=generator)).clamp(0, 1)
    return {
        "nothing": {name: 0 * dense(value) for name, value in truth.items()},
        "opposite": {name: -dense(value) for name, value in truth.items()},
        "other pictures": FedSGD()(model, small_client(seed=1)[1]),
        "noisy pictures": FedSGD()(model, Batch(noisy, batch.labels)),
        "other labels": FedSGD()(model, Batch(batch.images, batch.labels.roll(1))),
    }


@pytest.mark.slow
@everyone
def test_the_misfit_is_lowest_at_the_truth(obfuscation: Obfuscation) -> None:
    """In the mean over what the obfuscation may have drawn: one draw of a random obfuscation can favour a rival."""
    update = small_update()
    draws = [obfuscation.misfit(send(obfuscation, update, seed)) for seed in range(20)]

    def mean(candidate: Candidate) -> float:
        return float(torch.stack([misfit(candidate) for misfit in draws]).mean())

    truth = mean(update.tensors)
    worse = {name: mean(rival) - truth for name, rival in rivals(update.tensors).items()}
    assert min(worse.values()) > 0, worse


@pytest.mark.slow
@everyone
def test_the_misfit_of_a_thin_candidate_is_that_of_the_plain_one(
    obfuscation: Obfuscation, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = small_client()
    received = send(obfuscation, small_update())
    misfit = obfuscation.misfit(received)
    values, slopes = [], []
    for worth_it in (1, 1 << 40):
        monkeypatch.setattr(gradient, "WORTH_IT", worth_it)
        images = (batch.images * 0.8).requires_grad_()
        candidate = FedSGD().simulate(model, Batch(images, batch.labels))
        assert any(isinstance(value, Factored) for value in candidate.values()) == (worth_it == 1)
        value = misfit(candidate)
        values.append(value.detach())
        slopes.append(torch.autograd.grad(value, images)[0])
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-3 * float(slopes[0].abs().max()))


@everyone
def test_beliefs_are_finite_and_hold_the_truth(obfuscation: Obfuscation) -> None:
    if not isinstance(obfuscation, HasEntryModels):
        pytest.skip("every entry is equally certain")
    update = small_update()
    received = send(obfuscation, update)
    for name, entry_model in obfuscation.entry_models(received).items():
        truth = update.tensors[name]
        target, weight = entry_model(truth, (slice(None), slice(None)))
        assert 0 <= float(weight.min()) <= float(weight.max()) <= 1
        assert bool(torch.isfinite(target).all())
        part, share = entry_model(truth[1:3, 2:5], (slice(1, 3), slice(2, 5)))
        assert torch.equal(part, target[1:3, 2:5])
        assert torch.equal(share, weight[1:3, 2:5])
        if isinstance(obfuscation, MayRescale) and obfuscation.scale_unknown:
            continue  # as far off as the length
        off = (weight * (target - truth).square()).sum() / weight.sum().clamp_min(1e-12)
        assert float(off) <= 1.01 * float((received.tensors[name] - truth).square().mean())


@pytest.mark.parametrize("density", [0.001, 0.05, 0.33, 1.0])
@pytest.mark.parametrize("kind", ["topk", "randomk"])
def test_sparsifiers_keep_exactly_their_share(kind: str, density: float) -> None:
    values = torch.randperm(1000, generator=seeded(0)).float().reshape(10, 100) + 1
    update = Update({"a": values, "b": values[0, :7]})
    kept = send(parse(f"{kind}:density={density}"), update).tensors
    for name, size in (("a", 1000), ("b", 7)):
        assert int(torch.count_nonzero(kept[name])) == -int(-density * size // 1)
    if kind == "topk":
        share = kept["a"][kept["a"] != 0]
        assert float(share.min()) > 1000 - len(share)
    whole = send(parse(f"{kind}:density={density},scope=update"), update).tensors
    assert sum(int(torch.count_nonzero(t)) for t in whole.values()) == -int(-density * 1007 // 1)


@pytest.mark.parametrize(
    ("spec", "bits"),
    [
        ("none", 32 * 1000),
        ("fp16", 16 * 1000),
        ("qsgd:levels=16,norm=max", 5 * 1000 + 32),
        ("qsgd:levels=2", 2 * 1000 + 32),
        ("qsgd:levels=16,bucket=300", 5 * 1000 + 32 * 4),
        ("uniform:bits=8", 8 * 1000 + 32),
        ("uniform:bits=8,range=minmax", 8 * 1000 + 64),
        ("blockwise8", 8 * 1000 + 32),
        ("nf4", 4 * 1000 + 32 * 16),
        ("fp4:block=100", 4 * 1000 + 32 * 10),
        ("sign", 1000),
        ("sign:scale=true", 1000 + 32),
        ("topk:density=0.01", 10 * (32 + 10)),
        ("topk:density=0.5", 500 * 32 + 1000),  # a bitmap is shorter than 500 positions
        ("topk:density=0.01+uniform:bits=8", 10 * (8 + 10) + 32),
    ],
)
def test_wire_bits_by_hand(spec: str, bits: int) -> None:
    update = Update({"a": torch.linspace(0.5, 1, 1000)})
    assert send(parse(spec), update).wire_bits == bits


def test_qsgd_levels_are_multiples_of_the_largest_entry() -> None:
    values = torch.randn(500, generator=seeded(0))
    received = send(parse("qsgd:levels=5,norm=max"), Update({"a": values})).tensors["a"]
    level = received / values.abs().max() * 4
    torch.testing.assert_close(level, level.round())
    assert float((received - values).abs().max()) <= float(values.abs().max()) / 4 * (1 + 1e-6)


def test_noise_is_as_large_as_the_tensor_makes_it() -> None:
    values = torch.randn(200_000, generator=seeded(0)) * 3
    for spec, expected in [("gaussian:relative=2.5", 7.5), ("gaussian:sigma=2", 2), ("laplace:sigma=2", 2)]:
        noise = send(parse(spec), Update({"a": values})).tensors["a"] - values
        assert float(noise.std()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("spec", "ratio"), [("gaussian:snr_db=20", 0.1), ("laplace:snr_db=-6", 10**0.3)])
def test_a_signal_to_noise_ratio_compares_mean_squares_of_each_tensor(spec: str, ratio: float) -> None:
    """The mean counts as signal, and so it does for the attacker who tells the noise from what was received."""
    values = torch.randn(200_000, generator=seeded(0))
    update = Update({"a": values * 3 + 4, "b": values * 1e-3})
    received = send(parse(spec), update, seed=1)
    found = parse(spec).variances(received)  # type: ignore[attr-defined]
    for name, own in {"a": 5.0, "b": 1e-3}.items():
        noise = received.tensors[name] - update.tensors[name]
        assert float(noise.std()) == pytest.approx(ratio * own, rel=0.02)
        assert found[name].constant ** 0.5 == pytest.approx(ratio * own, rel=0.02)


@pytest.mark.parametrize("db", [-200, 0, 200])
def test_the_loudest_and_the_faintest_noise_have_a_finite_misfit(db: float) -> None:
    update = small_update()
    for name in ("gaussian", "laplace"):
        stage = parse(f"{name}:snr_db={db}")
        assert torch.isfinite(stage.misfit(send(stage, update))(update.tensors))


def test_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    update = small_update()
    received = send(parse("clip:norm=0.1"), update).tensors
    flat = torch.cat([t.reshape(-1) for t in received.values()])
    before = torch.cat([t.reshape(-1) for t in update.tensors.values()])
    assert float(flat.norm()) == pytest.approx(0.1, rel=1e-4)
    assert float(torch.cosine_similarity(flat, before, dim=0)) == pytest.approx(1, abs=1e-5)
    same = send(parse("clip:norm=1000"), update).tensors
    assert all(torch.equal(same[name], t) for name, t in update.tensors.items())


def test_the_gain_of_unbiased_random_k_is_undone_behind_a_quantiser_too() -> None:
    update = small_update()
    obfuscation = parse("randomk:density=0.2,unbiased=true+qsgd:levels=256,norm=max")
    misfit = obfuscation.misfit(send(obfuscation, update))
    wrong: dict[str, Tensor] = {name: 5 * t for name, t in update.tensors.items()}
    assert float(misfit(update.tensors)) < 1 < float(misfit(wrong))


def test_clipping_is_judged_up_to_length() -> None:
    update = small_update()
    obfuscation = parse("clip:norm=0.1")
    misfit = obfuscation.misfit(send(obfuscation, update))
    longer: dict[str, Tensor] = {name: 3 * t for name, t in update.tensors.items()}
    assert float(misfit(longer)) == pytest.approx(float(misfit(update.tensors)), abs=1e-9)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("powersgd:rank=0", "PowerSGD: expected rank >= 1"),
        ("topk:density=0", r"TopK: expected 0 < density <= 1, got 0;"),
        ("topk:density=1.5", r"TopK: expected 0 < density <= 1, got 1.5;"),
        ("randomk:density=-1", r"RandomK: expected 0 < density <= 1, got -1;"),
        ("qsgd:levels=1", "QSGD: expected levels >= 2, got 1"),
        ("qsgd:levels=4,bucket=0", "expected bucket >= 1"),
        ("qsgd", "needs levels"),
        ("qsgd:levels=four", "levels=four does not fit"),
        ("qsgd:level=4", "did you mean 'levels'"),
        ("qsgd:levels=4,norm=l1", "norm=l1 does not fit"),
        ("qsgd:levels", "expected key=value, got 'levels'"),
        ("qsgd:levels=4,levels=5", "given twice"),
        ("uniform:bits=1", "expected 2 <= bits <= 16"),
        ("ternary:clip=0", "expected clip > 0"),
        ("gaussian", "exactly one"),
        ("gaussian:sigma=1,relative=1", "exactly one"),
        ("gaussian:sigma=1,snr_db=20", "exactly one"),
        ("laplace:relative=1,snr_db=20", "exactly one"),
        ("laplace:sigma=0", "expected noise > 0"),
        ("gaussian:snr_db=201", "Gaussian: expected -200 <= snr_db <= 200, got 201; give decibels"),
        ("clip:norm=0", "expected norm > 0"),
        ("dpsgd:clip=1,noise=0", "DPSGD: expected noise > 0, got 0"),
        ("topkk:density=0.1", "unknown obfuscation 'topkk'; did you mean 'topk'"),
        ("none:x=1", "has no settings"),
    ],
)
def test_bad_settings_are_one_clear_sentence(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(spec)
