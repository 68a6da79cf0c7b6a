"""The manifest: what is read is what the schema says, by an independent validator."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import unveil.captures.manifest as module
from captures.hostile import MANIFESTS
from unveil.captures.facts import SOURCES, Fact
from unveil.captures.manifest import KINDS, Manifest, declared, schema

SCHEMA = Path(module.__file__).with_name("manifest.schema.json")
FORMAT = Path(__file__).resolve().parents[2] / "docs" / "format.md"

VALUES: dict[str, Any] = {
    "framework": "flower",
    "framework_version": "1.13",
    "model": "package.module:Net",
    "client": "hospital 3",
    "round": 0,
    "learning_rate": 0.01,
    "optimiser": "sgd",
    "momentum": 0.9,
    "dampening": 0.1,
    "nesterov": True,
    "weight_decay": 0,
    "steps": 4,
    "epochs": 1,
    "batch_size": 8,
    "drop_last": False,
    "examples": 32,
    "loss": "cross_entropy",
    "loss_reduction": "mean",
    "label_smoothing": 0.1,
    "sign": "reversed",
    "mode": "train",
    "dropout": 2,
    "input_range": [-1.0, 1.0],
    "normalisation": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "buffers": "sent",
    "obfuscation": "topk:density=0.05",
    "image_shape": [3, 32, 32],
    "classes": 10,
    "labels": [1, 2],
    "clip": 1.0,
    "noise": 0.5,
    "expected": 16,
    "update_clip": 3.0,
    "sampling": "fixed-size",
    "dataset": 50_000,
    "rounds": 10,
    "delta": 1e-5,
    "adjacency": "zero-out",
    "claimed_epsilon": 8,
}


def text(**values: Any) -> str:
    facts = {name: {"value": value, "source": "observed"} for name, value in values.items()}
    return json.dumps({"format": 1, "facts": facts})


def is_valid(manifest: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(manifest))


def test_the_shipped_schema_is_that_of_the_code_and_a_schema() -> None:
    assert json.loads(SCHEMA.read_text()) == json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))


def test_every_fact_has_a_field_a_kind_a_row_in_the_page_and_a_value_here() -> None:
    names = [field.name for field in fields(Manifest) if field.name != "order"]
    table = FORMAT.read_text().split("| fact | value |")[1].split("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert names == list(KINDS) == list(VALUES) == [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


@pytest.mark.parametrize("name", VALUES)
def test_a_value_of_each_fact_is_read_as_it_is_and_written_again(name: str) -> None:
    manifest = Manifest.parse(text(**{name: VALUES[name]}))
    fact = manifest.facts[name]
    assert fact.source == "observed"
    assert (list(fact.value) if isinstance(fact.value, tuple) else fact.value) == VALUES[name]
    assert {other for other, known in manifest.facts.items() if known.source != "unknown"} == {name}
    assert Manifest.parse(str(manifest)) == manifest
    assert is_valid(json.loads(str(manifest)))
    assert is_valid(json.loads(text(**{name: VALUES[name]})))


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_is_read_and_unknown_is_a_value(source: str) -> None:
    value = None if source == "unknown" else 4
    given = {"format": 1, "facts": {"steps": {"value": value, "source": source}}}
    assert Manifest.parse(json.dumps(given)).steps == Fact(value=value, source=source)  # type: ignore[arg-type]
    assert is_valid(given)


def parsed(content: bytes) -> Any:
    """The manifest inside one of the hostile files; None if it is no JSON."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    try:
        return json.loads(header["__metadata__"]["manifest"])
    except (ValueError, RecursionError):
        return None


# What JSON Schema cannot say: the tensors' names, a table that names something twice, control characters. NaN and
# infinity are no JSON.
BEYOND = {"an order of another name", "facts twice", "NaN", "a learning rate of 10^400"}
BEYOND |= {"a text that clears the screen", "a text of two lines"}


@pytest.mark.parametrize("name", sorted(MANIFESTS.keys() - BEYOND))
def test_what_the_reader_refuses_the_schema_refuses(name: str) -> None:
    found = parsed(MANIFESTS[name][0]())
    assert found is None or not is_valid(found)


def test_what_is_declared_says_so() -> None:
    assert declared(learning_rate=0.1).learning_rate == Fact(value=0.1, source="declared")
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        declared(learning_rat=0.1)
    with pytest.raises(ValueError, match="expected steps as a whole number from 1"):
        declared(steps=0)


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Manifest().steps = Fact(value=1, source="declared")  # type: ignore[misc]


def test_the_page_has_a_writer_of_five_lines() -> None:
    code = re.search(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert code
    statements = [node for node in ast.parse(code.group(1)).body if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(statements) == 5
    assert len(code.group(1).split("save_file\n\n")[1].splitlines()) == 5
