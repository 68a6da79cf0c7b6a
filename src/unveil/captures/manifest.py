"""The manifest of a recorded update: the order of its tensors, and what is known of how the client made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unveil.captures.facts import (
    FLAG,
    LABELS,
    NORMALISATION,
    POSITIVE,
    SOURCES,
    TEXTUAL,
    UNKNOWN,
    Fact,
    Kind,
    fact_of,
    list_of,
    number,
    one_of,
    whole,
)
from unveil.captures.strict_json import parsed
from unveil.core.bounds import LARGE, SMALL
from unveil.core.errors import nearest
from unveil.core.files import quoted
from unveil.core.guarantees import Adjacency, Sampling
from unveil.core.loss import LOSSES

VERSION = 1
"""Version of the format; files of another version are refused."""

TENSORS = 10_000
"""Most tensors in a recorded update, those of the weights before it included."""
NAME = 500
"""Most characters of a tensor's name."""

KINDS: Mapping[str, Kind] = {
    "framework": TEXTUAL,
    "framework_version": TEXTUAL,
    "model": TEXTUAL,
    "client": TEXTUAL,
    "round": whole(0),
    "learning_rate": POSITIVE,
    "optimiser": TEXTUAL,
    "momentum": number(0, 1),
    "dampening": number(0, 1),
    "nesterov": FLAG,
    "weight_decay": number(0, LARGE),
    "steps": whole(1),
    "epochs": whole(1),
    "batch_size": whole(1),
    "drop_last": FLAG,
    "examples": whole(1),
    "loss": one_of(*LOSSES, "other"),
    "loss_reduction": one_of("mean", "sum"),
    "label_smoothing": number(0, 0.999),
    "sign": one_of("standard", "reversed"),
    "mode": one_of("train", "eval"),
    "dropout": whole(0),
    "input_range": list_of("[smallest, largest]", number(-LARGE, LARGE), 2, 2),
    "normalisation": NORMALISATION,
    "buffers": one_of("kept", "sent", "obfuscated"),
    "obfuscation": TEXTUAL,
    "image_shape": list_of("[channels, height, width]", whole(1), 3, 3),
    "classes": whole(2),
    "labels": list_of("a list of class indices", whole(0), 1, LABELS),
    "clip": POSITIVE,
    "noise": number(0, LARGE),
    "expected": POSITIVE,
    "update_clip": POSITIVE,
    "sampling": one_of("all", "poisson", "fixed-size"),
    "dataset": whole(1),
    "rounds": whole(1, 1_000_000),
    "delta": number(SMALL, 0.5),
    "adjacency": one_of("replace", "zero-out", "add-remove"),
    "claimed_epsilon": POSITIVE,
}
"""Name of each fact -> the values that it may have; the fields of `Manifest` say what they mean."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of a recorded update beside its tensors. Every fact may be unknown.

    Args:
        order: Names of the sent tensors in the order in which the client sent them; empty if it is not known.
        framework: The software of the federation, such as `flower`.
        framework_version: Its version.
        model: What the client calls its network; it is shown to people and never imported.
        client: The client's name.
        round: Number of the round, from 0.
        learning_rate: The local learning rate.
        optimiser: The local optimiser, such as `sgd` or `adam`.
        momentum: Its momentum.
        dampening: Share of each gradient, but the first, that does not enter the momentum.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: Its weight decay.
        steps: Number of local steps.
        epochs: Number of passes over the client's pictures.
        batch_size: Number of pictures in each step.
        drop_last: Whether a last, smaller mini-batch of each epoch is left out.
        examples: Number of pictures on which the client trained.
        loss: The loss of local training, one of `LOSSES`, or `other`.
        loss_reduction: Whether the loss is the mean or the sum over the pictures of a step.
        label_smoothing: Share of each label that the loss spreads evenly over all classes.
        sign: Whether `delta/` and `gradient/` are as the format defines them, or with the opposite sign.
        mode: Mode of the network during local training.
        dropout: Number of dropout layers that were at work during local training.
        input_range: Smallest and largest value that the network got, of all pictures.
        normalisation: `mean` and `std` of pixels in [0, 1], one number for each colour channel, before the network.
        buffers: Whether the network's buffers were sent; see `core.protocols.BufferSetting`.
        obfuscation: SPEC of the obfuscation, such as `topk:density=0.05`.
        image_shape: Channels, height and width of the pictures.
        classes: Number of classes.
        labels: Class index of each picture, in the client's order.
        clip: DP-SGD: L2 norm to which the gradient of each example was clipped.
        noise: DP-SGD: noise multiplier.
        expected: DP-SGD: expected batch size by which the sum was divided.
        update_clip: Largest L2 norm of everything together that the client sends, before noise.
        sampling: Which of the client's examples a step took; see `core.guarantees.Sampling`.
        dataset: Number of examples that the client holds.
        rounds: Number of updates of this client that the attacker sees.
        delta: The delta for which epsilon is to be stated.
        adjacency: What neighbouring inputs differ in; see `core.guarantees.Adjacency`.
        claimed_epsilon: The epsilon that the client's software claims.
    """

    order: tuple[str, ...] = ()
    framework: Fact[str] = UNKNOWN
    framework_version: Fact[str] = UNKNOWN
    model: Fact[str] = UNKNOWN
    client: Fact[str] = UNKNOWN
    round: Fact[int] = UNKNOWN
    learning_rate: Fact[float] = UNKNOWN
    optimiser: Fact[str] = UNKNOWN
    momentum: Fact[float] = UNKNOWN
    dampening: Fact[float] = UNKNOWN
    nesterov: Fact[bool] = UNKNOWN
    weight_decay: Fact[float] = UNKNOWN
    steps: Fact[int] = UNKNOWN
    epochs: Fact[int] = UNKNOWN
    batch_size: Fact[int] = UNKNOWN
    drop_last: Fact[bool] = UNKNOWN
    examples: Fact[int] = UNKNOWN
    loss: Fact[str] = UNKNOWN
    loss_reduction: Fact[str] = UNKNOWN
    label_smoothing: Fact[float] = UNKNOWN
    sign: Fact[str] = UNKNOWN
    mode: Fact[str] = UNKNOWN
    dropout: Fact[int] = UNKNOWN
    input_range: Fact[tuple[float, float]] = UNKNOWN
    normalisation: Fact[Mapping[str, list[float]]] = UNKNOWN
    buffers: Fact[str] = UNKNOWN
    obfuscation: Fact[str] = UNKNOWN
    image_shape: Fact[tuple[int, int, int]] = UNKNOWN
    classes: Fact[int] = UNKNOWN
    labels: Fact[tuple[int, ...]] = UNKNOWN
    clip: Fact[float] = UNKNOWN
    noise: Fact[float] = UNKNOWN
    expected: Fact[float] = UNKNOWN
    update_clip: Fact[float] = UNKNOWN
    sampling: Fact[Sampling] = UNKNOWN
    dataset: Fact[int] = UNKNOWN
    rounds: Fact[int] = UNKNOWN
    delta: Fact[float] = UNKNOWN
    adjacency: Fact[Adjacency] = UNKNOWN
    claimed_epsilon: Fact[float] = UNKNOWN

    @property
    def facts(self) -> dict[str, Fact[Any]]:
        """Every fact by name, those that are unknown included."""
        return {name: getattr(self, name) for name in KINDS}

    def declaring(self, **values: Any) -> Manifest:
        """Return a copy in which these facts are declared, such as `examples=8`; None for one that is unknown.

        Raises:
            ValueError: There is no such fact, or it cannot have this value.
        """
        facts = {
            name: Fact(value=value, source="unknown" if value is None else "declared").as_json
            for name, value in values.items()
        }
        found = Manifest.parse(json.dumps({"format": VERSION, "facts": facts}))
        return replace(self, **{name: getattr(found, name) for name in values})

    @classmethod
    def parse(cls, text: str | bytes) -> Manifest:
        """Return the manifest of a JSON text.

        Raises:
            ValueError: The text is no JSON, names something twice, or is no manifest of this version.
        """
        found = parsed(text)
        if not isinstance(found, dict) or found.get("format") != VERSION or type(found["format"]) is not int:
            raise ValueError(f'expected a manifest with "format": {VERSION}')
        if unknown := found.keys() - {"format", "order", "facts"}:
            raise ValueError(f"the manifest has no key {quoted(min(unknown), 60)}")
        order, facts = found.get("order", []), found.get("facts", {})
        if not isinstance(order, list) or len(order) > TENSORS or not all(is_name(name) for name in order):
            raise ValueError(f"expected the order as at most {TENSORS} names of tensors")
        if len(set(order)) < len(order):
            raise ValueError("the order names a tensor twice")
        if not isinstance(facts, dict):
            raise ValueError("expected the facts as a table")
        for name in facts:
            if name not in KINDS:
                raise ValueError(f"there is no fact {quoted(name, 60)}; {nearest(name[:60], list(KINDS))}")
        return cls(order=tuple(order), **{name: fact_of(name, KINDS[name], given) for name, given in facts.items()})

    def __str__(self) -> str:
        """Return the JSON text from which `parse` makes an equal manifest; unknown facts are left out."""
        known = {name: fact.as_json for name, fact in self.facts.items() if fact.source != "unknown"}
        return json.dumps({"format": VERSION, "order": list(self.order), "facts": known}, ensure_ascii=False)


def declared(**values: Any) -> Manifest:
    """Return a manifest of facts that the client declares, such as `declared(learning_rate=0.1, epochs=1)`.

    Raises:
        ValueError: There is no such fact, or it cannot have this value.
    """
    return Manifest().declaring(**values)


def is_name(name: object) -> bool:
    """Return whether something is a name for a tensor: a text of 1 to `NAME` printable characters."""
    return isinstance(name, str) and 0 < len(name) <= NAME and name.isprintable()


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a manifest; the package has it as `captures/manifest.schema.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Manifest of a recorded update, version {VERSION}",
        "type": "object",
        "properties": {
            "format": {"const": VERSION},
            "order": {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": NAME},
                "maxItems": TENSORS,
                "uniqueItems": True,
            },
            "facts": {
                "type": "object",
                "properties": {name: _fact_schema(kind) for name, kind in KINDS.items()},
                "additionalProperties": False,
            },
        },
        "required": ["format"],
        "additionalProperties": False,
    }


def _fact_schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON Schema of one fact: a value of its kind with a source, or null and `unknown`."""
    unknown = {"properties": {"value": {"type": "null"}, "source": {"const": "unknown"}}}
    known = {"properties": {"value": dict(kind.schema), "source": {"enum": [s for s in SOURCES if s != "unknown"]}}}
    return {
        "type": "object",
        "required": ["value", "source"],
        "additionalProperties": False,
        "properties": {"value": {}, "source": {}},
        "anyOf": [known, unknown],
    }
