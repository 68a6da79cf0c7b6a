"""Which metrics an audit takes, and how they are built for one client."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from unveil.clients.client import Client
from unveil.core.errors import UsageError
from unveil.core.fingerprints import copies
from unveil.core.metric import Metric
from unveil.core.types import Images
from unveil.metrics import CATALOGUE, checked, parse
from unveil.metrics.built_in_classifiers import build_classifier
from unveil.metrics.classifiers import Classifier
from unveil.metrics.identity import FOUND_IN_FIVE, Embed, pixels, reidentification
from unveil.metrics.perceptual import lpips, perceptual_embedding
from unveil.metrics.semantic import PROBABILITY, SAME_TOP5, TOP, TRUE_CLASS, classes_named, semantic, true_class

CANDIDATES = 20
"""Fewest candidates from which five guesses are taken: a blind guess is then right in one case of four at most."""

Distance = Literal["pixels", "lpips", "features"]


@dataclass(frozen=True, kw_only=True)
class MetricSelection:
    """Which metrics score the reconstructions of an audit. Those of `metrics.CATALOGUE` are always among them.

    Args:
        lpips_weights: A file of LPIPS weights, or `download`; None leaves LPIPS out.
        classifier: A classifier or its SPEC (see `build_classifier`) for the semantic metrics; None leaves them out.
        top: Most labels that a picture has, at least 1.
        probability: Least probability of a label, in [0, 1).
        decoys: Number of other pictures among which re-identification looks for the original; 0 leaves it out.
        distance: How re-identification compares pictures: `pixels` (correlation), `lpips`, or the classifier's
            `features`.
        others: Metrics of other packages, or their SPECs (`package.module:METRIC`).

    Raises:
        UsageError: A number is out of range, a distance lacks its weights or classifier, or two metrics share a name.
    """

    lpips_weights: str | None = None
    classifier: str | Classifier | None = None
    top: int = TOP
    probability: float = PROBABILITY
    decoys: int = 0
    distance: Distance = "pixels"
    others: tuple[str | Metric, ...] = ()

    def __post_init__(self) -> None:
        if self.decoys < 0:
            raise UsageError(f"metrics: expected decoys >= 0, got {self.decoys}; 200 are usual")
        needed = {"lpips": ("lpips_weights", self.lpips_weights), "features": ("classifier", self.classifier)}
        if self.decoys and self.distance in needed and needed[self.distance][1] is None:
            raise UsageError(
                f"metrics: distance {self.distance} needs {needed[self.distance][0]}; give it, or use pixels"
            )
        names = [metric.name for metric in self._others()]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"metrics: two of `others` have the name {name!r}; keep one of them")

    def __call__(self, client: Client) -> Mapping[str, Metric]:
        """The metrics of one client, by name.

        Args:
            client: Its class names decide whether `true_class` can be scored, its source gives the decoys.

        Raises:
            UsageError: An extra is not installed, weights are missing or wrong, or the client has too few pictures.
        """
        metrics = dict(CATALOGUE)
        if self.lpips_weights is not None:
            metrics["lpips"] = _lpips(self.lpips_weights)
        if self.classifier is not None:
            classifier = _classifier(self.classifier)
            metrics |= semantic(classifier, top=self.top, probability=self.probability)
            truth = [classes_named(classifier, name) for name in _names(client)]
            if any(truth):
                metrics["true_class"] = true_class(classifier, truth)
            metrics = _telling(metrics, (SAME_TOP5.name, TRUE_CLASS.name), among=len(classifier.names))
        if self.decoys:
            metrics |= reidentification(_decoys(client, self.decoys), self._embed())
            metrics = _telling(metrics, (FOUND_IN_FIVE.name,), among=self.decoys + 1)
        metrics |= {metric.name: metric for metric in self._others()}
        return metrics

    def chance(self, client: Client) -> list[float]:
        """For each picture the probability of being found first by somebody who knows its label and has no update.

        It is one over the pictures of that label in the gallery, if those were drawn by chance; empty where they were
        not, and without a gallery. A picture that has a copy in the batch is sure to be found by it.
        """
        labels = client.evaluation.decoy_labels
        if labels is None or not self.decoys:
            return []
        copied = {index for group in copies(client.images) for index in group}
        return [
            1.0 if index in copied else 1 / (1 + int((labels[: self.decoys] == label).sum()))
            for index, label in enumerate(client.labels)
        ]

    @property
    def settings(self) -> dict[str, Any]:
        """As plain JSON. The path of the LPIPS weights is left out: their checksum is verified when they are read."""
        kept = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        named = self.classifier.name if isinstance(self.classifier, Classifier) else self.classifier
        if named is not None and named.startswith("cifar10:"):
            named = "cifar10"
        others = [other if isinstance(other, str) else other.name for other in kept.pop("others")]
        kept |= {"others": others} if others else {}
        return {**kept, "lpips_weights": self.lpips_weights is not None, "classifier": named}

    def _others(self) -> list[Metric]:
        """The metrics of other packages."""
        return [
            parse(other) if isinstance(other, str) else checked(other, f"metric {other.name!r}")
            for other in self.others
        ]

    def _embed(self) -> Embed:
        """The function that turns pictures into the vectors which re-identification compares."""
        if self.distance == "lpips" and self.lpips_weights is not None:
            return _embedding(self.lpips_weights)
        if self.distance == "features" and self.classifier is not None:
            return _features(_classifier(self.classifier))
        return pixels


_lpips = cache(lpips)
_embedding = cache(perceptual_embedding)
_built = cache(build_classifier)


def _telling(metrics: Mapping[str, Metric], of_five: Sequence[str], *, among: int) -> dict[str, Metric]:
    """The metrics without those that count five guesses, if there are so few candidates that a blind guess wins.

    Args:
        metrics: The metrics by name.
        of_five: Names of metrics that are 1 if one of five guesses is right.
        among: Number of candidates that are guessed from.
    """
    return {name: metric for name, metric in metrics.items() if among >= CANDIDATES or name not in of_five}


def _classifier(given: str | Classifier) -> Classifier:
    """The classifier itself, or the one that a SPEC names."""
    return _built(given) if isinstance(given, str) else given


def _features(classifier: Classifier) -> Callable[[Images], Float[Tensor, "n f"]]:
    """The classifier's features of each picture, of length 1."""

    def embed(images: Images) -> Float[Tensor, "n f"]:
        features = classifier(images).features
        if features is None:
            raise UsageError(f"metrics: classifier {classifier.name} does not show its features; use pixels or lpips")
        return normalize(features)

    return embed


def _names(client: Client) -> list[str]:
    """The class name of each picture; empty where a label has no name."""
    named = [int(label) for label in client.batch.labels if int(label) < len(client.class_names)]
    return [client.class_names[label] for label in named] if len(named) == len(client.batch) else []


def _decoys(client: Client, wanted: int) -> Images:
    """The first `wanted` decoys of the client; raises a `UsageError` where there are fewer."""
    decoys = client.evaluation.decoys
    there = 0 if decoys is None else len(decoys)
    if decoys is None or there < wanted:
        raise UsageError(
            f"client {client.name!r}: {wanted} decoys are wanted, and it has {there}; "
            "lower decoys, or give the client more pictures"
        )
    return decoys[:wanted]
