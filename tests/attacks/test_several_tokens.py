"""Several pictures of a vision transformer: errors of single pictures, exact last features, decoding, and refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instances import first_of_each
from seeds import seeded, shifted
from small_vit import SHAPE, attacked, small
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.attack import FeatureInversion
from unveil.attacks.separation.state import Problem
from unveil.attacks.separation.tokens.embedding import PatchEmbedding
from unveil.attacks.separation.tokens.errors import token_errors
from unveil.attacks.separation.tokens.gradients import NoTokensError, read_gradients
from unveil.attacks.separation.tokens.grid import PatchGrid, read_grid
from unveil.attacks.separation.tokens.last_features import last_features, read_last_layers
from unveil.attacks.separation.tokens.samples import Samples, varied_leaves
from unveil.attacks.separation.tokens.several import check, rehearsed
from unveil.attacks.separation.tuning import FactorisationTuning
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.batch import Batch
from unveil.core.protocols import Knowledge, LocalTraining
from unveil.core.update import Update
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse as obfuscation_of

NAMES = {"embedding": "embedding.weight", "last": "head.weight"}


def problem_of(
    model: nn.Module,
    labels: list[int],
    *,
    training: LocalTraining | None = None,
    sent_through: str = "none",
    scale: bool = True,
) -> tuple[Problem, Tensor]:
    """An attacker's problem, and the private pictures behind it."""
    training, obfuscation, wanted = training or FedSGD(), obfuscation_of(sent_through), torch.tensor(labels)
    images = dead_leaves(len(labels), SHAPE, generator=seeded())
    sent = Update(training(model, Batch(images, wanted)))
    knowledge = Knowledge(
        training=training,
        image_shape=SHAPE,
        num_images=len(labels),
        classes=10,
        labels=wanted,
        obfuscation=obfuscation,
        scale=scale,
    )
    received = obfuscation(sent, generator=seeded(1))
    return Problem(model=model, update=received, knowledge=knowledge, labels=wanted, generator=seeded(2)), images


@pytest.mark.parametrize("linear", [True, False], ids=["Linear", "convolution"])
def test_the_errors_of_a_picture_are_its_part_of_the_gradient_of_the_positions(linear: bool) -> None:
    model, labels = small(linear=linear).double(), torch.tensor([3, 7, 1])
    images = dead_leaves(3, SHAPE, generator=seeded())
    errors, features = token_errors(model, images, labels, **NAMES)
    for number in range(3):
        loss = F.cross_entropy(model(images[number : number + 1].double()), labels[number : number + 1]) / 3
        (slope,) = torch.autograd.grad(loss, model.get_parameter("positions"))
        assert torch.allclose(errors[number], slope[0, 1:].float(), rtol=1e-4, atol=1e-9)
    scores = F.linear(features.double(), model.get_parameter("head.weight"), model.get_parameter("head.bias"))
    assert torch.allclose(scores, model(images.double()), atol=1e-5)


@pytest.mark.slow
def test_the_errors_of_torchvisions_vit_add_up_to_the_gradient_of_its_positions() -> None:
    from torchvision.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(shifted())
        model = VisionTransformer(
            image_size=16, patch_size=4, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=24, num_classes=10
        ).eval()
        nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision starts it at zero: nothing would come back
    images, labels = dead_leaves(2, SHAPE, generator=seeded()), torch.tensor([3, 7])
    errors, _ = token_errors(model, images, labels, embedding="conv_proj.weight", last="heads.head.weight")
    loss = F.cross_entropy(model(images), labels)
    (slope,) = torch.autograd.grad(loss, model.get_parameter("encoder.pos_embedding"))
    assert torch.allclose(errors.sum(0), slope[0, 1:], rtol=1e-3, atol=1e-6 * float(slope.abs().max()))


@pytest.mark.slow
def test_the_last_features_of_each_picture_are_exact_in_float64() -> None:
    problem, images = problem_of(small().double(), [3, 7, 1])
    _, wanted = token_errors(problem.model, images, problem.labels, **NAMES)
    found = last_features(problem, read_last_layers(problem), gain=1.0, tuning=FactorisationTuning())
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_patches_of_four_pixels_are_their_own_frequencies() -> None:
    found = read_gradients(problem_of(small(), [3, 7])[0])
    grid = read_grid(found.embedding, SHAPE)
    assert grid is not None
    images = dead_leaves(2, SHAPE, generator=seeded())
    frequencies = grid.frequencies(images)
    assert torch.allclose(grid.pictures(frequencies), images, atol=1e-5)
    means = F.avg_pool2d(images, 4)
    assert torch.allclose(frequencies.reshape(2, 3, 4, 4, 4, 4)[:, :, 0, 0], 4 * means, atol=1e-5)


def test_frequencies_above_the_fourth_are_left_out() -> None:
    grid = PatchGrid(torch.arange(4).reshape(2, 2), (0, 0), (8, 8), (1, 16, 16))
    places = torch.arange(16) % 8 + 0.5
    low, high = (torch.cos(math.pi * k * places / 8).expand(1, 1, 16, 16) for k in (3, 4))
    assert torch.allclose(grid.pictures(grid.frequencies(low)), low, atol=1e-5)
    assert torch.allclose(grid.pictures(grid.frequencies(high)), torch.zeros(1, 1, 16, 16), atol=1e-5)


def embedding_of(pixels: Tensor) -> PatchEmbedding:
    return PatchEmbedding("embedding.weight", pixels, torch.ones(pixels.shape[1]), torch.zeros(pixels.shape))


def test_a_grid_is_read_in_any_order_and_only_where_patches_are_rectangles() -> None:
    pixels = torch.arange(16).reshape(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
    grid = read_grid(embedding_of(pixels[[2, 0, 3, 1]]), (1, 4, 4))
    assert grid is not None
    assert grid.order.tolist() == [[1, 3], [0, 2]]
    assert grid.patch == (2, 2)
    dilated = torch.arange(16).reshape(2, 2, 2, 2).permute(1, 3, 0, 2).reshape(4, 4)
    assert read_grid(embedding_of(dilated), (1, 4, 4)) is None


def test_sums_are_those_of_the_pictures_drawn() -> None:
    drawn = torch.arange(6.0).reshape(3, 2)  # sample s of picture k holds 2 s + k
    everywhere = drawn[:, :, None, None, None]
    samples = Samples(everywhere, 10 * everywhere, drawn[:, :, None])
    total, features, frequencies = samples.mixed(50, generator=seeded())
    assert torch.equal(total[:, 0, 0, 0], 10 * features.sum((1, 2)))
    assert torch.equal(frequencies[:, :, 0, 0, 0], features[:, :, 0])
    assert (features[:, 1, 0] % 2 == 1).all()
    assert len(set(features[:, 0, 0].tolist())) == 3


@pytest.mark.slow
def test_synthetic_pictures_are_dark_and_pale_and_within_range() -> None:
    pictures = varied_leaves(60, SHAPE, generator=seeded())
    means = pictures.mean((1, 2, 3))
    assert float(pictures.min()) >= 0
    assert float(pictures.max()) <= 1
    assert float(means.min()) < 0.3
    assert float(means.max()) > 0.7


@pytest.mark.parametrize(
    ("training", "gain"),
    first_of_each(
        [(FedAvg(steps=2, lr=0.001), 2.0), (FedSGD(), 1.0), (FedSGD(label_smoothing=0.4, reduction="sum"), 2.0)]
    ),
)
def test_the_gain_is_that_of_the_local_training(training: LocalTraining, gain: float) -> None:
    problem, _ = problem_of(small(), [3, 7], training=training)
    found, noise = rehearsed(problem, read_gradients(problem), **NAMES)
    wanted = gain * (0.001 if isinstance(training, FedAvg) else 1)
    assert abs(found) == pytest.approx(wanted, rel=0.02)
    assert noise == 0


def test_the_noise_is_that_of_the_obfuscation() -> None:
    problem, _ = problem_of(small(), [3, 7], sent_through="gaussian:sigma=0.01")
    _, noise = rehearsed(problem, read_gradients(problem), **NAMES)
    assert noise == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    ("labels", "scale", "sentence"),
    [
        ([1, 1], True, "pictures of one class cannot be told apart in that sum"),
        (list(range(9)), True, "sums over more than 8 pictures, here 9, are not taken apart"),
        ([1, 2], False, "the attacker does not know the length of the update"),
    ],
)
def test_what_cannot_be_decoded_is_told_in_a_sentence(labels: list[int], scale: bool, sentence: str) -> None:
    problem, _ = problem_of(small(), labels, scale=scale)
    with pytest.raises(NoTokensError, match=f"{sentence}: the pictures were not decoded from the tokens' errors"):
        check(problem, read_gradients(problem))


def test_patches_that_are_no_grid_are_told_in_a_sentence() -> None:
    problem, _ = problem_of(small(), [1, 2])
    found = read_gradients(problem)
    odd = replace(found, embedding=embedding_of(found.embedding.pixels.flatten().reshape(48, 16).T.contiguous()))
    with pytest.raises(NoTokensError, match=r"The patches of embedding\.weight are not rectangles side by side: the"):
        check(problem, odd)


class NoHead(nn.Module):
    """A transformer whose scores are scaled after its last Linear layer, by a function that is no Linear layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.inner(images).reshape(len(images), 2, 5).mean(2)
        return found


def test_a_network_without_a_last_linear_layer_is_told_in_a_sentence() -> None:
    problem, _ = problem_of(NoHead(), [0, 1])
    with pytest.raises(NoTokensError, match=r"does not end in a Linear layer.*: the pictures were not decoded"):
        check(problem, read_gradients(problem))


@pytest.mark.slow
def test_pictures_of_one_class_are_matched_with_one_honest_sentence() -> None:
    problem, _ = problem_of(small(), [1, 1])
    attack = FeatureInversion(steps=2)
    found = attack(problem.model, problem.update, problem.knowledge, generator=seeded())
    assert not any("pools its last map" in note for note in found.notes)
    assert "cannot be told apart in that sum" in found.notes[0]
    assert found.notes[1] == "The attack matched updates instead."


@pytest.mark.slow
@pytest.mark.parametrize("sent_through", ["none", "gaussian:relative=0.01"])
def test_two_pictures_come_back_better_than_a_blind_guess(sent_through: str) -> None:
    images = dead_leaves(2, SHAPE, generator=seeded(5))
    guess = attacked(small(), images, sent_through=sent_through, steps=12)
    assert float(psnr(images, guess.images).mean()) > float(psnr(images, torch.full_like(images, 0.5)).mean()) + 1
    assert any("decoded from the gradient of the position embeddings (positions)" in note for note in guess.notes)
    exactly = any("The features before head.weight were separated first, exactly" in note for note in guess.notes)
    assert exactly == (sent_through == "none")
