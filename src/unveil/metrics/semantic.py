"""Semantic metrics: they compare a classifier's output for the reconstruction with its output for the original.

ROG's metric is the overlap of two sets of labels; the others are stricter or more gradual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.metric import Metric, MetricFacts, Scoring
from unveil.core.types import Images
from unveil.metrics.caching import remembered
from unveil.metrics.classifiers import Classifier, Seen

TOP = 5  # most labels in a set
PROBABILITY = 0.05  # least probability of a label in a set

JACCARD = MetricFacts(
    name="semantic_jaccard", title="Labels shared", leak="high", description="overlap of the classifier's label sets"
)
SAME_TOP1 = MetricFacts(
    name="same_top1",
    title="Same label",
    leak="high",
    description="share with the original's first label",
    is_rate=True,
)
SAME_TOP5 = MetricFacts(
    name="same_top5",
    title="Same, of five",
    leak="high",
    description="share with it among the first five",
    is_rate=True,
)
FEATURES = MetricFacts(
    name="feature_similarity",
    title="Features",
    leak="high",
    description="cosine of what the classifier's last layer sees",
)
TRUE_CLASS = MetricFacts(
    name="true_class",
    title="True class",
    leak="high",
    description="share whose true class is among five",
    is_rate=True,
)


def semantic(classifier: Classifier, *, top: int = TOP, probability: float = PROBABILITY) -> Mapping[str, Metric]:
    """Return four metrics of one classifier by name; the classifier runs once on each set of pictures.

    `semantic_jaccard`: ``|a & b| / |a | b|`` of the label sets of original and reconstruction, in [0, 1]. A label set
    has the likeliest labels with at least the given probability, and always the likeliest one.
    `same_top1`, `same_top5`: 1 if the original's likeliest label is the reconstruction's, or one of its five likeliest.
    `feature_similarity`: cosine in [-1, 1] of the classifier's features; NaN if the classifier does not give them.

    Args:
        classifier: The classifier.
        top: Most labels in a set, at least 1.
        probability: Least probability of a label in a set, in [0, 1).

    Raises:
        UsageError: A setting is out of range.

    Reference:
        Yue et al., Gradient Obfuscation Gives a False Sense of Security in Federated Learning, USENIX Security 2023,
        section 6 (the label sets).
    """
    if top < 1 or not 0 <= probability < 1:
        raise UsageError(
            f"semantic: expected top >= 1 and 0 <= probability < 1, got {top} and {probability:g}; "
            f"{TOP} and {PROBABILITY} are usual"
        )
    look = remembered(classifier)

    def jaccard(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
        a, b = (label_sets(look(images), top, probability) for images in (originals, rebuilt))
        return (a & b).sum(1).double() / (a | b).sum(1)

    def agreement(k: int) -> Scoring:
        def score(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
            first = look(originals).probabilities.argmax(1, keepdim=True)
            return (_likeliest(look(rebuilt), k) == first).any(1).double()

        return score

    def similarity(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
        a, b = look(originals).features, look(rebuilt).features
        if a is None or b is None:  # reports leave NaN out of means
            return torch.full((len(originals),), torch.nan, dtype=torch.float64)
        return torch.cosine_similarity(a, b, 1)

    return {
        metric.name: metric
        for metric in (
            JACCARD.scored(jaccard),
            SAME_TOP1.scored(agreement(1)),
            SAME_TOP5.scored(agreement(5)),
            FEATURES.scored(similarity),
        )
    }


def true_class(classifier: Classifier, truth: Sequence[Sequence[int]]) -> Metric:
    """Return the metric `true_class`: 1 if the picture's true class is one of the reconstruction's five likeliest.

    Args:
        classifier: The classifier.
        truth: For each picture, the classifier's class indices that mean its true class. Without any, the score is NaN.
    """
    look = remembered(classifier)

    def score(originals: Images, rebuilt: Images) -> Float[Tensor, " n"]:
        if len(truth) != len(rebuilt):
            raise UsageError(f"true_class: expected {len(truth)} pictures, got {len(rebuilt)}; score the whole batch")
        named = _likeliest(look(rebuilt), 5).tolist()
        hits = [bool(set(right) & set(row)) if right else torch.nan for right, row in zip(truth, named, strict=True)]
        return torch.tensor(hits, dtype=torch.float64)

    return TRUE_CLASS.scored(score)


def classes_named(classifier: Classifier, name: str) -> tuple[int, ...]:
    """Return the indices of the classifier's classes whose name, or one of its synonyms, ends with the given name.

    So `cat` gives `tabby cat` and `Siamese cat`. Case and a final `s` of words are ignored; `_` and `-` are spaces.
    """
    wanted = _words(name)
    found = []
    for index, label in enumerate(classifier.names):
        synonyms = [_words(part) for part in label.split(",")]
        if any(words[-len(wanted) :] == wanted for words in synonyms if wanted):
            found.append(index)
    return tuple(found)


def label_sets(seen: Seen, top: int, probability: float) -> Bool[Tensor, "n classes"]:
    """Return the label set of each picture as a row of a mask.

    Args:
        seen: The classifier's output.
        top: Most labels in a set.
        probability: Least probability of a label; the likeliest label is in the set in any case.
    """
    p = seen.probabilities
    places = p.argsort(dim=1, descending=True, stable=True)[:, :top]
    among = torch.zeros_like(p, dtype=torch.bool).scatter_(1, places, True) & (p >= probability)
    return among.scatter_(1, places[:, :1], True)


def _likeliest(seen: Seen, k: int) -> Int[Tensor, "n k"]:
    """Return the `k` likeliest classes of each picture, or all if there are fewer; the likeliest comes first."""
    return seen.probabilities.topk(min(k, seen.probabilities.shape[1]), dim=1).indices


def _words(name: str) -> list[str]:
    """Return the words of a class name in lower case, without a final `s`."""
    return [word.removesuffix("s") for word in name.lower().replace("_", " ").replace("-", " ").split()]
