"""Metrics: scores of how much of each picture was recovered, one value for each picture, never pooled over a batch."""

from collections.abc import Mapping
from dataclasses import fields

from jaxtyping import Float
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.metric import Metric, MetricFacts
from unveil.core.registry import construct, split
from unveil.core.third_parties import find, installed
from unveil.core.types import Images
from unveil.core.usercode import running
from unveil.metrics.identity import FOUND_FIRST, FOUND_IN_FIVE, RANK
from unveil.metrics.perceptual import LPIPS
from unveil.metrics.pixel import CORRELATION, PSNR, SSIM, SSIM_GLOBAL
from unveil.metrics.semantic import FEATURES, JACCARD, SAME_TOP1, SAME_TOP5, TRUE_CLASS

CATALOGUE: Mapping[str, Metric] = {metric.name: metric for metric in (PSNR, SSIM, SSIM_GLOBAL, CORRELATION)}
"""Metrics that need only the pictures; they are always computed."""

FACTS: Mapping[str, MetricFacts] = {
    facts.name: facts
    for facts in (
        *CATALOGUE.values(),
        *(LPIPS, JACCARD, SAME_TOP1, SAME_TOP5, FEATURES, TRUE_CLASS),
        *(RANK, FOUND_FIRST, FOUND_IN_FIVE),
    )
}
"""The facts of every metric of unveil's own, in the order of reports."""

NEEDS: Mapping[str, str] = {
    LPIPS.name: "lpips_weights",
    **dict.fromkeys((facts.name for facts in (JACCARD, SAME_TOP1, SAME_TOP5, FEATURES, TRUE_CLASS)), "classifier"),
    **dict.fromkeys((facts.name for facts in (RANK, FOUND_FIRST, FOUND_IN_FIVE)), "decoys"),
}
"""Metric -> the key of `[metrics]` in an audit file without which it is not taken."""

__all__ = ["CATALOGUE", "CORRELATION", "FACTS", "NEEDS", "PSNR", "SSIM", "SSIM_GLOBAL", "facts_of", "parse", "remember"]


_RECORDED: dict[str, MetricFacts] = {}
"""Facts of metrics of other packages, as trials have recorded them."""


def remember(recorded: Mapping[str, MetricFacts]) -> None:
    """Store the facts of other packages' metrics for `facts_of`; a report needs them even if the package is missing.

    Args:
        recorded: `Trial.metrics`; facts of unveil's own metrics are ignored.
    """
    _RECORDED.update({name: facts for name, facts in recorded.items() if name not in FACTS})


def facts_of(name: str) -> MetricFacts:
    """Return the facts of a metric, by its key in results.

    They are unveil's own, else those that `remember` stored, else defaults by which a high value means leakage.
    """
    known = FACTS.get(name) or _RECORDED.get(name)
    return known or MetricFacts(
        name=name, leak="high", description="not one of unveil's own; its direction is taken for high"
    )


def parse(text: str) -> Metric:
    """Return a metric of another package by its SPEC.

    Args:
        text: `package.module:METRIC`, `package.module:Class:key=value`, or the short name of an entry point.

    Raises:
        UsageError: The metric is missing, is no metric, or has the name of one of unveil's own.
    """
    name, settings = split("metric", text, {**FACTS, **installed("metric", FACTS)})
    if name in FACTS:
        raise UsageError(
            f"metric {name!r} is unveil's own; leave it out: those of pixels are always taken, and `MetricSelection` "
            "has settings for the others"
        )
    found = find("metric", FACTS, name)
    who = f"metric {name!r}"
    if not isinstance(found, Metric):
        found = construct("metric", {}, name, settings)
    elif settings:
        raise UsageError(f"{who} has no settings, got {next(iter(settings))!r}; write just {name!r}")
    return checked(found, who)


def checked(metric: Metric, who: str) -> Metric:
    """Return a metric whose score raises a `UsageError` unless it is one number for each picture.

    Args:
        metric: A metric, or any object with `name`, `leak` and `score`.
        who: The metric's name in messages.

    Raises:
        UsageError: The metric has the name of one of unveil's own.
    """
    if metric.name in FACTS:
        raise UsageError(f"{who} has the name {metric.name!r} of one of unveil's own; give it another")
    kept = {item.name: getattr(metric, item.name) for item in fields(MetricFacts) if hasattr(metric, item.name)}

    def score(originals: Images, images: Images) -> Float[Tensor, " n"]:
        with running(f"{who}: its score", "call it in Python to find out why"):
            values = metric.score(originals, images)
        if not isinstance(values, Tensor) or values.shape != (len(originals),) or values.is_complex():
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UsageError(f"{who}: expected one number a picture, a tensor of {len(originals)}, got {shape}; fix it")
        return values.detach().float()

    return Metric(**kept, score=score)
