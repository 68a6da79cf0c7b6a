"""Metrics: which metrics a client gets, what is refused, and one audit with all of them from file to report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from unveil.attacks import parse as parse_attack
from unveil.audits.audit import Audit
from unveil.audits.results import read_trials
from unveil.audits.running import run
from unveil.audits.scoring import MetricSelection
from unveil.cli.config import load
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.core.types import Images
from unveil.metrics.classifiers import Classifier, Seen
from unveil.obfuscations import parse as parse_obfuscation

PIXELS = ["psnr", "ssim", "ssim_global", "correlation"]
SEMANTIC = ["semantic_jaccard", "same_top1", "same_top5", "feature_similarity"]
REID = ["reid_rank", "reid_top1"]
OTHERS = tuple(f"thing {number}" for number in range(18))


def look(images: Images) -> Seen:
    """Cats are red, astronauts are not: enough to be asked."""
    redness = images.mean((2, 3))[:, :1]
    return Seen(torch.cat([redness, 1 - redness, redness.new_zeros(len(images), 18)], 1), images.mean((2, 3)))


TOY = Classifier(name="toy", names=("tabby cat", "an astronaut", *OTHERS), look=look, least=8)


def client(decoys: int = 0) -> Client:
    return make_client(
        name="client", model="lenet", images="builtin", size=16, batch=2, training=FedSGD(), decoys=decoys
    )


def test_each_setting_adds_its_metrics() -> None:
    assert list(MetricSelection()(client())) == PIXELS
    assert list(MetricSelection(classifier=TOY)(client())) == [*PIXELS, *SEMANTIC, "true_class"]
    assert list(MetricSelection(decoys=3)(client(3))) == [*PIXELS, *REID]
    both = MetricSelection(classifier=TOY, decoys=3, distance="features")(client(3))
    assert list(both) == [*PIXELS, *SEMANTIC, "true_class", *REID]


def test_the_true_class_comes_from_the_scenes_names() -> None:
    unknown = dataclasses.replace(client(), class_names=("zebra", "coffee"))
    assert "true_class" not in MetricSelection(classifier=TOY)(unknown)
    pictures = client().batch.images
    scores = MetricSelection(classifier=TOY)(client())["true_class"].score(pictures, pictures)
    assert scores.tolist() == [1.0, 1.0]  # the toy knows two classes, which are among its five likeliest


def test_five_guesses_count_only_where_a_blind_guess_is_mostly_wrong() -> None:
    few = Classifier(
        name="few", names=TOY.names[:19], look=lambda images: Seen(look(images).probabilities[:, :19], None), least=8
    )
    names = list(MetricSelection(classifier=few)(client()))
    assert names == [*PIXELS, *(name for name in SEMANTIC if name != "same_top5")]  # and no true_class
    pictures = torch.rand(18 + 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for decoys, is_there in ((18, False), (19, True)):
        one = dataclasses.replace(client(), evaluation=EvaluationSet(decoys=pictures))
        assert ("reid_top5" in MetricSelection(decoys=decoys)(one)) is is_there


def test_decoys_are_other_pictures_of_the_source() -> None:
    more = client(5)
    assert more.evaluation.decoys is not None
    assert len(more.evaluation.decoys) == 5
    assert torch.equal(more.batch.images, client().batch.images)
    distance = (more.evaluation.decoys[:, None] - more.batch.images).abs().flatten(2).mean(2)
    assert float(distance.min()) > 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoys": -1}, "expected decoys >= 0, got -1"),
        ({"decoys": 5, "distance": "lpips"}, "distance lpips needs lpips_weights"),
        ({"decoys": 5, "distance": "features"}, "distance features needs classifier"),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_sentence(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MetricSelection(**settings)


def test_too_few_pictures_for_a_gallery_are_one_clear_sentence() -> None:
    with pytest.raises(UsageError, match="20 decoys are wanted, and it has 0"):
        MetricSelection(decoys=20)(client())
    with pytest.raises(UsageError, match="ask for 12 or fewer"):
        client(20)


@pytest.mark.slow
def test_an_audit_takes_them_and_its_settings_name_no_path(tmp_path: Path) -> None:
    audit = Audit(
        clients=[client(3)],
        obfuscations=[parse_obfuscation("none")],
        attacks=[parse_attack("unveil:steps=4")],
        metrics=MetricSelection(classifier=TOY, decoys=3),
    )
    assert audit.settings()["metrics"]["classifier"] == "toy"
    assert MetricSelection(lpips_weights="/somewhere/x.npz").settings["lpips_weights"] is True
    assert MetricSelection(classifier="cifar10:/somewhere/x.th").settings["classifier"] == "cifar10"
    (trial,) = run(audit, tmp_path)
    assert list(trial.scores) == [*PIXELS, *SEMANTIC, "true_class", *REID]
    assert read_trials(tmp_path)[0].scores == trial.scores


def test_a_file_names_them(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    text = '[[client]]\nname = "a"\nsize = 16\nbatch = 2\n[[attack]]\nname = "rog"\n[metrics]\n'
    path.write_text(text + 'decoys = 4\nlpips_weights = "w.npz"\nclassifier = "cifar10:c.th"\n')
    audit = load(path)
    assert audit.metrics == MetricSelection(
        decoys=4, lpips_weights=str(tmp_path / "w.npz"), classifier=f"cifar10:{tmp_path / 'c.th'}"
    )
    assert audit.clients[0].evaluation.decoys is not None
    assert len(audit.clients[0].evaluation.decoys) == 4
    path.write_text(text + "decoy = 4\n")
    with pytest.raises(UsageError, match="unknown key 'decoy' in metrics; did you mean 'decoys'"):
        load(path)
    path.write_text(text + 'distance = "colour"\n')
    with pytest.raises(UsageError, match=r"metrics\.distance: expected 'pixels', 'lpips' or 'features'"):
        load(path)
