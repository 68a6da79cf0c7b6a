"""One picture of a vision transformer follows from the gradients of its patch and position embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from instances import first_of_each
from seeds import seeded, shifted
from small_vit import SHAPE, Layout, attacked, small
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.state import Problem
from unveil.attacks.separation.tokens.embedding import read_embedding
from unveil.attacks.separation.tokens.gradients import NoTokensError
from unveil.attacks.separation.tokens.positions import read_positions
from unveil.attacks.separation.tokens.stage import read_equations
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.batch import Batch
from unveil.core.protocols import Knowledge
from unveil.core.update import Update
from unveil.metrics.pixel import psnr


@pytest.mark.parametrize("class_token", [True, False], ids=["class token", "pooled tokens"])
@pytest.mark.parametrize("linear", [True, False], ids=["Linear", "convolution"])
def test_the_equations_hold_exactly_and_give_the_picture(linear: bool, class_token: bool) -> None:
    model = small(linear=linear, class_token=class_token).double()
    images = dead_leaves(1, SHAPE, generator=seeded()).double()
    update = Update(FedSGD()(model, Batch(images, torch.tensor([3]))))
    knowledge = Knowledge(training=FedSGD(), image_shape=SHAPE, num_images=1, classes=10)
    labels = torch.tensor([3])
    problem = Problem(model=model, update=update, knowledge=knowledge, labels=labels, generator=seeded())
    equations, names = read_equations(problem)
    assert names == ("embedding.weight", "positions")
    assert equations.conditioning[0] == 16
    found = equations.picture(torch.full_like(images, 0.5), noise=1e-9, smoothness=12.0, steps=3)
    assert float((found - images).norm() / images.norm()) < 1e-4


@pytest.mark.parametrize("layout", ["rows", "no batch axis", "map"])
def test_positions_are_found_in_any_layout(layout: Layout) -> None:
    model = small(layout=layout, class_token=layout != "map")
    embedding = read_embedding(model, SHAPE)
    assert embedding is not None
    positions = read_positions(model, embedding, SHAPE, sent={name for name, _ in model.named_parameters()})
    assert positions is not None
    assert positions.rows.tolist() == [row + (layout != "map") for row in range(16)]


@pytest.mark.parametrize("labels_known", first_of_each([False, True]), ids=["labels unknown", "labels known"])
def test_the_attack_returns_the_picture_of_a_float32_update(labels_known: bool) -> None:
    images = dead_leaves(1, SHAPE, generator=seeded())
    guess = attacked(small(), images, labels_known=labels_known)
    assert float(psnr(images, guess.images)) > 45
    assert any("16 tokens of width 32, rank 16, condition" in note for note in guess.notes)


def test_several_local_steps_are_one_to_first_order() -> None:
    images = dead_leaves(1, SHAPE, generator=seeded())
    assert float(psnr(images, attacked(small(), images, training=FedAvg(steps=3, lr=0.001)).images)) > 30


@pytest.mark.slow
def test_a_noisy_update_gives_more_than_a_blind_guess_and_says_which_noise_was_taken() -> None:
    images = dead_leaves(1, SHAPE, generator=seeded())
    guess = attacked(small(), images, sent_through="gaussian:relative=0.05")
    assert float(psnr(images, guess.images)) > float(psnr(images, torch.full_like(images, 0.5))) + 3
    assert any("was taken for noise" in note and "The search for pictures" in note for note in guess.notes)


def test_pixels_outside_all_patches_are_filled_in() -> None:
    images = dead_leaves(1, (3, 18, 18), generator=seeded())
    found = attacked(small(), images).images
    assert float(psnr(images[..., :16, :16], found[..., :16, :16])) > 45
    assert float((found[..., 16:, :] - found[..., 15:16, :]).abs().mean()) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True], ids=["buffer", "frozen"])
def test_fixed_positions_fall_back_with_a_note(frozen: bool) -> None:
    model = small(layout="rows" if frozen else "fixed", frozen=frozen)
    guess = attacked(model, dead_leaves(1, SHAPE, generator=seeded()))
    assert any("no learned position embeddings" in note for note in guess.notes)
    assert any("The attack matched updates instead." in note for note in guess.notes)


@pytest.mark.slow
def test_gradients_of_zero_are_refused() -> None:
    model = small()
    nn.init.zeros_(model.head.weight)
    guess = attacked(model, dead_leaves(1, SHAPE, generator=seeded()))
    assert any("say nothing, because one of them is zero" in note for note in guess.notes)


def test_other_networks_say_nothing_of_tokens() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 10))
    knowledge = Knowledge(training=FedSGD(), image_shape=SHAPE, num_images=1, classes=10)
    update = Update({name: torch.ones_like(p) for name, p in model.named_parameters()})
    labels = torch.tensor([0])
    with pytest.raises(NoTokensError, match=r"^$"):
        read_equations(Problem(model=model, update=update, knowledge=knowledge, labels=labels, generator=seeded()))


@pytest.mark.slow
def test_torchvisions_vit_gives_its_picture() -> None:
    from torchvision.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(shifted())
        model = VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=10
        ).eval()
        nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision starts it at zero: nothing would come back
    images = dead_leaves(1, (3, 32, 32), generator=seeded())
    assert float(psnr(images, attacked(model, images).images)) > 45
