"""Copies of the client's pictures: in another client's batch no control, in the batch itself less evidence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from seeds import seeded, shifted
from unveil.attacks import parse as parse_attack
from unveil.attacks.dead_leaves import dead_leaves
from unveil.audits.controls import ANOTHER, LABELS
from unveil.audits.trial import run_trial
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.making import make_client
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.fingerprints import copies, fingerprints, overlap
from unveil.core.pixels import png_of
from unveil.core.records import Trial
from unveil.obfuscations import parse as parse_obfuscation
from unveil.report import summarise

SIZE = 32


def leaves(count: int, seed: int) -> Tensor:
    return dead_leaves(count, (3, SIZE, SIZE), generator=seeded(seed))


def near(images: Tensor) -> Tensor:
    """The same pictures, a little darker and rounded, as another export would save them."""
    return (images * 0.9 * 255).round() / 255


def test_copies_of_copies_are_one_group() -> None:
    images = leaves(4, 0)
    assert copies(images) == []
    assert copies(torch.cat([images, near(images[2:3]), images[:1], images[2:3]])) == [[0, 5], [2, 4, 6]]


@pytest.mark.slow
def test_another_client_gets_pictures_that_are_no_copies(tmp_path: Path) -> None:
    """Every class holds a picture, a copy of it, and two more pictures; which ones the batch has the seed decides."""
    for label in range(4):
        (tmp_path / str(label)).mkdir()
        own = leaves(3, 10 + label)
        for number, picture in enumerate([*own, *near(own[:1])]):
            (tmp_path / str(label) / f"{number}.png").write_bytes(png_of(picture))
    for seed in range(6):
        client = make_client(
            name="c",
            model="lenet",
            images=str(tmp_path),
            size=SIZE,
            batch=4,
            training=FedSGD(),
            others=True,
            seed=shifted(seed),
        )
        others = client.evaluation.others
        assert others is not None
        assert len(others) == 4
        assert not len(overlap(fingerprints(others.images), fingerprints(client.images)))


def trial(images: Tensor, others: Tensor, *, attack: str = "rog:steps=1") -> Trial:
    labels = torch.arange(len(images))
    client = Client(
        build_model("lenet", image_shape=(3, SIZE, SIZE), classes=10, seed=shifted(0)),
        images,
        labels,
        evaluation=EvaluationSet(others=Batch(others, labels)),
    )
    return run_trial(client, parse_obfuscation("none"), parse_attack(attack), seed=0, controls=(ANOTHER,))


@pytest.mark.slow
def test_synthetic_pictures_stand_in_for_another_client_with_copies() -> None:
    images = leaves(3, 1)
    found = trial(images, torch.cat([near(images[:2]), leaves(1, 2)]))
    assert list(found.final.controls) == [LABELS]
    assert "2 of its 3 pictures are copies of pictures in the batch" in " ".join(found.final.notes)
    assert list(trial(images, leaves(3, 2)).final.controls) == [ANOTHER]


def test_copies_in_the_batch_are_named() -> None:
    images = leaves(4, 3)
    images[2] = near(images[0])
    (sentence,) = [note for note in trial(images, leaves(4, 4)).final.notes if "copies" in note]
    assert sentence.startswith("Pictures 1 and 3 of the batch are copies of one another: they count as 2 in every mean")


@pytest.mark.slow
def test_a_leak_is_found_beside_a_client_with_the_same_pictures() -> None:
    """With the copies as the control the rebuilt pictures would be no more than the control's, and nothing found."""
    images = leaves(8, 5)
    (row,) = summarise([trial(images, near(images), attack="unveil:steps=10")])
    assert row.scores["psnr"].gain is not None
    assert row.scores["psnr"].gain.mean > 3
    assert row.verdict.level.value != "INCONCLUSIVE"
