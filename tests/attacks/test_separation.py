"""A batch is separated exactly where nothing was obfuscated, better with an entry model, else with a reason."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from instances import first_of_each
from seeds import seeded, shifted
from unveil.attacks import parse
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.matching.latents import Pyramid
from unveil.attacks.matching.regularisers import ColourVariation
from unveil.attacks.separation.decoder import fit_decoder
from unveil.attacks.separation.factorisation import (
    FeatureEstimate,
    decide_patterns,
    first_guess,
    read_errors,
    refine,
    round_patterns,
    separate,
)
from unveil.attacks.separation.head_descent import lift, unknown_columns
from unveil.attacks.separation.heads.head import Head, NoHeadError, read_head
from unveil.attacks.separation.refinement import FeatureRefiner, between
from unveil.attacks.separation.relu_patterns import find_patterns, row_space
from unveil.attacks.separation.stages import half_square, noise_adapted_weight
from unveil.attacks.separation.tuning import FactorisationTuning, SearchTuning
from unveil.attacks.separation.weighted_lstsq import solve, solved
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.loss import MEAN
from unveil.core.protocols import HasEntryModels, Knowledge
from unveil.core.update import Update
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse as obfuscation_of

SHAPE = (3, 16, 16)


def rng(seed: int = 0) -> Generator:
    return seeded(seed)


def net(layers: int, *, bias: bool, classes: int = 20, act: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Module:
    """A convolution, and a head of one, two or three Linear layers."""
    sizes = [6 * 8 * 8, *[96, 64][: layers - 1], classes]
    head: list[nn.Module] = []
    for inside, out in pairwise(sizes):
        head += [nn.Linear(inside, out, bias=bias), act()]
    with torch.random.fork_rng():
        torch.manual_seed(shifted(seed))
        body = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        model = nn.Sequential(*body, *head[:-1])
        for module in model:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return model.double()


def client(
    model: nn.Module, labels: list[int], *, seed: int = 5, training: FedSGD | None = None
) -> tuple[Head, Tensor, Batch, Update]:
    training = training or FedSGD()
    images = dead_leaves(len(labels), SHAPE, generator=rng(seed)).to(next(model.parameters()).dtype)
    batch = Batch(images, torch.tensor(labels))
    head = read_head(model, SHAPE, training=training)
    with torch.no_grad():
        truth = head.features(images)
    return head, truth, batch, Update(training(model, batch))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("layers", "most"), [(1, 1e-6), (2, 1e-3), (3, 0.1)])
def test_separation_is_exact_without_obfuscation(layers: int, most: float, bias: bool) -> None:
    """Of seven clients most; behind three layers the turns may end at a few percent, where no gate changes any more."""
    off = []
    for seed in range(7):
        head, truth, batch, update = client(net(layers, bias=bias, seed=seed), [3, 11, 7, 0], seed=seed)
        gradients = [update.tensors[name] for name in head.weights]
        features, errors = first_guess(
            head, gradients, batch.labels, gain=1.0, tuning=FactorisationTuning(), generator=rng(seed)
        )
        features, _ = refine(
            head,
            gradients,
            features,
            errors,
            batch.labels,
            gain=1.0,
            rounds=30,
            tuning=FactorisationTuning(first_ridge=1e-9),
        )
        assert len(head.weights) == layers
        off.append(float((features - truth).norm() / truth.norm()))
    assert median(off) < most


@pytest.mark.slow
@pytest.mark.parametrize("pruned", ["some", "all"])
def test_separation_is_exact_although_columns_of_the_last_layer_were_not_sent(pruned: str) -> None:
    """Units of which nothing is known are taken to be open at first; a column of zeros would call them closed."""
    off = []
    for seed in range(7):
        head, truth, batch, update = client(net(2, bias=True, seed=seed), [3, 11, 7, 0], seed=seed)
        gradients = [update.tensors[name] for name in head.weights]
        kept = torch.zeros(96, dtype=torch.bool) if pruned == "all" else torch.rand(96, generator=rng(seed)) > 0.8
        gradients[1] = gradients[1] * kept
        weights = kept.double().expand(20, 96)
        unknown = unknown_columns(gradients, [None, lambda expected, block, w=weights: (expected, w[block])])
        assert torch.equal(unknown[1], ~kept)
        features, errors = first_guess(
            head,
            gradients,
            batch.labels,
            gain=1.0,
            tuning=FactorisationTuning(),
            generator=rng(seed),
            unknown=unknown,
        )
        features, _ = refine(
            head,
            gradients,
            features,
            errors,
            batch.labels,
            gain=1.0,
            rounds=30,
            tuning=FactorisationTuning(first_ridge=1e-9),
        )
        off.append(float((features - truth).norm() / truth.norm()))
    assert median(off) < 1e-3


@pytest.mark.slow
def test_separation_knows_that_labels_were_smoothed() -> None:
    off: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(3):
        model, training = net(2, bias=True, seed=seed), FedSGD(label_smoothing=0.3)
        head, truth, batch, update = client(model, [3, 11, 7, 0], seed=seed, training=training)
        gradients, tuning = [update.tensors[name] for name in head.weights], FactorisationTuning(first_ridge=1e-9)
        for is_known in off:
            used = head if is_known else dataclasses.replace(head, loss=MEAN)
            features, errors = first_guess(used, gradients, batch.labels, gain=1.0, tuning=tuning, generator=rng(seed))
            features, _ = refine(used, gradients, features, errors, batch.labels, gain=1.0, rounds=30, tuning=tuning)
            off[is_known].append(float((features - truth).norm() / truth.norm()))
    assert median(off[True]) < 1e-3
    assert median(off[False]) > 0.1


def test_features_of_a_head_that_is_cut_off_give_the_network_back() -> None:
    model = net(3, bias=True)
    head, truth, batch, update = client(model, [3, 11, 7, 0])
    for layer in head.layers(truth, batch.labels):
        torch.testing.assert_close(layer.errors.T @ layer.inputs, update.tensors[layer.weight])
    simulated = head.simulate(FedSGD(), truth, batch.labels)
    for name in head.weights:
        torch.testing.assert_close(simulated[name], update.tensors[name])


def test_alternations_end_where_the_features_no_longer_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(1, bias=True)
    head, truth, batch, update = client(model, [3, 11, 7, 0])
    gradients = [update.tensors[name] for name in head.weights]
    turns, layers = [], Head.layers

    def counted(self: Head, *args: Any) -> Any:
        turns.append(1)
        return layers(self, *args)

    monkeypatch.setattr(Head, "layers", counted)
    tuning = FactorisationTuning(first_ridge=1e-14, first_rounds=1000)
    features, _ = first_guess(head, gradients, batch.labels, gain=1.0, tuning=tuning, generator=rng())
    torch.testing.assert_close(features, truth, rtol=1e-6, atol=1e-6)
    assert len(turns) < 100


@pytest.mark.parametrize(
    "spec", first_of_each(["qsgd:levels=4,norm=max", "topk:density=0.2", "randomk:density=0.3,unbiased=true"])
)
def test_what_the_channel_says_makes_features_better(spec: str) -> None:
    model = net(2, bias=False)
    head, truth, batch, update = client(model, [3, 11, 7, 0])
    obfuscation = obfuscation_of(spec)
    received = obfuscation(update, generator=rng())
    assert isinstance(obfuscation, HasEntryModels)
    entry_model = obfuscation.entry_models(received)[head.weights[0]]
    errors = head.layers(truth, batch.labels)[0].errors
    gradient = received.tensors[head.weights[0]]
    even = separate(errors, gradient).features
    weighted = separate(errors, gradient, guess=even, entry_model=entry_model)
    for _ in range(5):
        weighted = separate(errors, gradient, guess=weighted.features, entry_model=entry_model)
    assert float((weighted.features - truth).norm()) < 0.97 * float((even - truth).norm())


def test_the_certainty_is_the_size_of_the_error() -> None:
    model = net(2, bias=False)
    head, truth, batch, update = client(model, [3, 11, 7, 0])
    received = obfuscation_of("gaussian:relative=1")(update, generator=rng())
    found = separate(head.layers(truth, batch.labels)[0].errors, received.tensors[head.weights[0]])
    expected = found.covariance[0].diagonal()
    actual = (found.features - truth).square().mean(1)
    assert bool(((actual / expected).log().abs() < 0.5).all())
    assert found.noise == pytest.approx(float(expected.mean()))


def test_gates_are_read_from_the_update_where_the_pictures_are_only_nearly_right() -> None:
    model = net(2, bias=False)
    head, truth, batch, update = client(model, [3, 11, 7, 0])
    received = obfuscation_of("qsgd:levels=16,norm=max")(update, generator=rng()).tensors[head.weights[0]]
    guess = truth + 0.2 * truth.std() * torch.randn(truth.shape, generator=rng(), dtype=truth.dtype)
    right = head.layers(truth, batch.labels)[0].errors
    layers = head.layers(head.allowed(guess), batch.labels)
    read = round_patterns(read_errors(guess, received), layers[1].pulls)
    assert head.is_gated
    assert float((read - right).norm()) < 0.7 * float((layers[0].errors - right).norm())


def test_images_of_one_class_are_told_apart_by_their_gates() -> None:
    model = net(2, bias=False)
    head, truth, batch, update = client(model, [3, 3, 3, 9])
    opened = head.layers(truth, batch.labels)[1].pulls[0]
    gates = find_patterns(update.tensors[head.weights[0]], opened, 3, 4, tuning=FactorisationTuning(), generator=rng())
    right = (head.layers(truth, batch.labels)[0].errors[:3] != 0).to(gates.dtype)
    agree = (gates[:, None] == right[None]).double().mean(2)
    assert len(gates) == 3
    assert float(agree.max(0).values.min()) > 0.9


def test_an_activation_is_told_from_what_it_does() -> None:
    head = read_head(net(2, bias=True, act=nn.Tanh), SHAPE, training=FedSGD())
    values = torch.linspace(-0.9, 0.9, 64, dtype=torch.float64)[None]
    torch.testing.assert_close(head.slope_of(1, values), 1 - values.square(), atol=0.02, rtol=0)
    assert not head.is_gated


@pytest.mark.slow
def test_the_decoder_returns_pictures_of_features_it_never_saw() -> None:
    head = read_head(net(2, bias=True).float(), SHAPE, training=FedSGD())
    images = dead_leaves(4, SHAPE, generator=rng(77))
    with torch.no_grad():
        pictures = fit_decoder(head, generator=rng())(head.features(images), 0.0)
    grey = torch.full_like(images, float(images.mean()))
    assert float(psnr(images, pictures).mean()) > float(psnr(images, grey).mean()) + 3


@pytest.mark.parametrize(
    ("model", "n", "reason"),
    first_of_each(
        [
            (
                nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
                2,
                "pools its",
            ),
            (nn.Sequential(nn.Conv2d(3, 10, 16), nn.Flatten()), 2, "does not end in a Linear layer"),
            (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 3)), 5, "fewer equations than unknowns"),
        ]
    ),
    ids=["pooled", "no Linear layer", "too many images"],
)
def test_where_a_batch_cannot_be_separated_the_result_says_so(model: nn.Module, n: int, reason: str) -> None:
    batch = Batch(torch.rand((n, *SHAPE), generator=rng()), torch.arange(n) % 3)
    update = Update(FedSGD()(model, batch))
    knowledge = Knowledge(training=FedSGD(), image_shape=SHAPE, num_images=n, classes=3, labels=batch.labels)
    guess = parse("unveil:steps=2")(model, update, knowledge, generator=rng())
    assert any(reason in note for note in guess.notes)
    assert align(batch.images, guess).images.shape == batch.images.shape


@pytest.mark.slow
def test_of_several_starts_the_one_that_explains_the_update_best_goes_on() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    batch = Batch(torch.rand((2, *SHAPE), generator=rng()), torch.tensor([0, 1]))
    knowledge = Knowledge(training=FedSGD(), image_shape=SHAPE, num_images=2, classes=10, labels=batch.labels)
    guess = parse("unveil:steps=60,starts=3")(model, Update(FedSGD()(model, batch)), knowledge, generator=rng())
    assert len(guess.losses) == 60
    ends = guess.losses[3], guess.losses[7], guess.losses[11]  # a fifth of the steps, shared by three
    assert guess.losses[12] < 1.1 * min(ends)  # one step further on
    assert guess.losses[-1] < min(ends)


def test_a_head_of_an_unseparable_network_is_an_error_with_a_reason() -> None:
    with pytest.raises(NoHeadError, match="Linear"):
        read_head(nn.Sequential(nn.Conv2d(3, 10, 16), nn.Flatten()), SHAPE, training=FedSGD())


def test_a_pyramid_adds_its_levels_up() -> None:
    latent = Pyramid(shrink=(1, 4))
    z = latent.init(2, SHAPE, generator=rng())
    assert z.shape == (2, 3 * 16 * 16 + 3 * 4 * 4)
    assert not bool(latent.decode(z, SHAPE).any())
    z[:, 3 * 16 * 16 :] = 0.25
    torch.testing.assert_close(latent.decode(z, SHAPE), torch.full((2, *SHAPE), 0.25))


def test_colour_edges_cost_more_than_edges_of_light_and_flat_pictures_nothing() -> None:
    prior = ColourVariation(weight=1.0)
    flat, grey, colour = (torch.full((1, *SHAPE), 0.5) for _ in range(3))
    grey[..., 8:] += 0.2
    colour[:, 0, :, 8:] += 0.2
    costs = [float(prior(pictures)) - float(prior(flat)) for pictures in (flat, grey, colour)]
    assert costs[0] == 0
    assert costs[2] > 1.5 * costs[1] > 0
    assert float(prior(flat[:, :1])) > 0


def test_the_prior_is_eased_by_noise_and_never_gone() -> None:
    tuning = SearchTuning(noisy_weight=0.25, noise_response=4)
    weights = [noise_adapted_weight(noise, tuning=tuning) for noise in (0, 0.25, 1, 1e9)]
    assert weights == pytest.approx([1, 0.25 + 0.75 / 2, 0.25 + 0.75 / 5, 0.25])


def test_expectation_decides_where_reading_is_noisy() -> None:
    drive = torch.randn((8, 400), generator=rng(), dtype=torch.float64)
    opened = torch.randn((8, 400), generator=rng(1), dtype=torch.float64)
    truth = opened * (drive > 0)
    believed = drive + 0.5 * torch.randn(drive.shape, generator=rng(2), dtype=torch.float64)
    noise = torch.randn(drive.shape, generator=rng(3), dtype=torch.float64)

    def wrong(errors: Tensor) -> float:
        return float(((errors != 0) != (truth != 0)).double().mean())

    assert (
        wrong(decide_patterns(truth, opened, -believed, drive_log_odds=3)) == 0
    )  # an exact reading overrules any expectation
    noisy = truth + 1.5 * noise
    together = wrong(decide_patterns(noisy, opened, believed, drive_log_odds=3))
    assert together < wrong(round_patterns(noisy, opened))
    assert together < wrong(opened * (believed > 0))


def test_a_mean_that_no_equation_holds_is_told_by_relu() -> None:
    hidden = torch.rand((10, 40), generator=rng(), dtype=torch.float64)
    hidden = (hidden - 0.3).clamp_min(0)  # behind ReLU: no column without a zero
    hidden[0, hidden.amin(0) > 0] = 0
    errors = (0.1 - torch.eye(10, dtype=torch.float64)) / 10  # every class once: the rows add up to nothing
    centred = hidden - hidden.mean(0)
    assert torch.allclose(lift(centred, errors, weak_equation=0.05), hidden)
    apart = torch.eye(10, dtype=torch.float64)
    assert torch.equal(lift(centred, apart, weak_equation=0.05), centred)  # every equation says something


@pytest.mark.slow
def test_a_batch_with_every_class_is_separated_too() -> None:
    pictures = load_pictures("builtin", count=10, size=32)
    model = build_model("lenet", image_shape=(3, 32, 32), classes=10, seed=0)
    received = Update(FedSGD()(model, Batch(pictures.images, pictures.labels)))
    knowledge = Knowledge(training=FedSGD(), image_shape=(3, 32, 32), num_images=10, classes=10, labels=pictures.labels)
    guess = parse("unveil:steps=40")(model, received, knowledge, generator=rng())
    assert (
        float(psnr(pictures.images, guess.images).mean()) > 20
    )  # 9 with the gain and the mean told from the last layer alone


def test_where_the_eigenvalues_cannot_be_found_the_space_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.rand((12, 3), generator=rng()) @ torch.rand((3, 9), generator=rng())
    expected = row_space(gradient, 3)

    def fail(*_: object, **__: object) -> None:
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    found = row_space(gradient, 3)
    assert found.shape == expected.shape
    assert torch.allclose(found @ found.T, expected @ expected.T, atol=1e-5)
    assert torch.allclose((found * expected).sum(0).abs(), torch.ones(3).double(), atol=1e-4)  # in the same order


@pytest.mark.parametrize("scale", [0.0, 1e-22, 1e-30, 1e-44])
@pytest.mark.parametrize("images", [1, 3])
def test_errors_of_almost_nothing_give_finite_features(scale: float, images: int) -> None:
    """Of a last layer of which one entry arrived, the errors of every image may be zero."""
    errors = scale * torch.randn((images, 8), generator=rng())
    gradient = torch.randn((8, 5), generator=rng(1))
    features = solve(errors, gradient, 1e-3)
    assert bool(features.isfinite().all())
    if scale == 0:
        assert not bool(features.any())


def test_cholesky_and_the_plain_solve_agree_also_where_a_matrix_is_not_positive() -> None:
    rows = torch.randn((6, 4, 3), generator=rng(), dtype=torch.float64)
    right = torch.randn((6, 4), generator=rng(1), dtype=torch.float64)
    positive = rows @ rows.transpose(1, 2) + 0.1 * torch.eye(4, dtype=torch.float64)
    odd = positive.clone()
    odd[2] -= 5 * torch.eye(4, dtype=torch.float64)  # one matrix of the six has negative eigenvalues
    for grams in (positive, odd):
        found = solved(grams, right)
        torch.testing.assert_close((grams @ found[..., None])[..., 0], right)


@pytest.mark.parametrize("shared", [True, False])
def test_half_the_square_of_an_error_has_the_slope_of_the_formula(shared: bool) -> None:
    off = torch.randn((3, 7), generator=rng(), dtype=torch.float64).requires_grad_()
    rows = torch.randn((1 if shared else 7, 3, 3), generator=rng(1), dtype=torch.float64)
    precision = rows @ rows.transpose(1, 2)
    expected = 0.5 * torch.einsum("nf,fnm,mf->", off, precision.expand(7, 3, 3), off)
    found = half_square(off, precision)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, off)[0] for value in (found, expected)))


@pytest.mark.parametrize(("noise", "expected"), [(0.5, 0.5), (0.25, 0.75), (0.0, 1.0), (2.0, 0.0)])
def test_guessed_and_separated_features_are_weighed_by_their_errors(noise: float, expected: float) -> None:
    # They differ by 1: with a variance of 1/2 on one side, 1/2 is left for the other.
    found = FeatureEstimate(torch.ones(3, 4), torch.ones(3, 2), noise * torch.eye(3)[None], 0.0)
    assert torch.equal(between(torch.zeros(3, 4), found), torch.full((3, 4), expected))


def test_a_large_batch_behind_an_obfuscation_is_separated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    guesses: list[Tensor] = []
    chosen = FeatureRefiner._with_errors

    def noted(self: FeatureRefiner, guess: Tensor, *args: Any) -> Any:
        guesses.append(guess)
        return chosen(self, guess, *args)

    monkeypatch.setattr(FeatureRefiner, "_with_errors", noted)
    for n, turns in ((32, 1), (33, 2)):
        head, _, batch, update = client(net(2, bias=False, classes=40), list(range(n)))
        obfuscation = obfuscation_of("qsgd:levels=16,norm=max")
        assert isinstance(obfuscation, HasEntryModels)
        received = obfuscation(update, generator=rng())
        refiner = FeatureRefiner(
            head=head,
            gradient=received.tensors[head.weights[0]],
            entry_model=obfuscation.entry_models(received)[head.weights[0]],
            labels=batch.labels,
            training=FedSGD(),
            gain=1.0,
            once=1.0,
            estimated=False,
            tuning=FactorisationTuning(),
        )
        guesses.clear()
        refiner(batch.images)
        assert len(guesses) == turns
