"""The keys of an audit file, their types and defaults. An unknown, missing or renamed key is one sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from unveil import enhancers
from unveil.audits.controls import ANOTHER
from unveil.audits.scoring import Distance
from unveil.clients.messages import CohortObfuscates
from unveil.clients.pictures import BUILTIN
from unveil.core.errors import UsageError, nearest
from unveil.core.guarantees import Adjacency, Sampling

RENAMED = {"scene": "[[client]]", "knowledge": "threat_models = [...]", "measures": "[metrics]"}
"""A top-level key of audit files of old versions -> what to write instead."""

STRICT = ConfigDict(extra="forbid", strict=True)

LONGEST = 200  # characters of what a file holds, in a message
MOST = 2**63 - 1  # what torch takes for a seed
AtLeastOne = Annotated[int, Field(ge=1, le=MOST)]
AtLeastZero = Annotated[int, Field(ge=0, le=MOST)]


@dataclass(frozen=True, kw_only=True)
class ClientTable:
    """One `[[client]]` table: who trains on what.

    Args:
        name: Its name in results, different for each client.
        model: A built-in model or `package.module:factory?key=value`; or a table of that name and the arguments.
        weights: A file of trained weights relative to the TOML file; None for the weights that the factory returns.
        normalise: `mean` and `std` of the pictures, subtracted and divided by before the model: one number, or one
            for each colour channel. None where the model takes pixels in [0, 1].
        images: `builtin`, or a folder relative to the TOML file.
        size: Height and width of the pictures in pixels, or both in a list.
        channels: 3 for RGB, 1 for grey.
        batch: Pictures in the batch.
        cohort: Number of clients of whose updates the server sees only the mean, each with a batch of other pictures;
            with a list of numbers there is one cohort of each, called `NAME (cohort 4)` and so on.
        cohort_obfuscates: `mean`, or `each` where every client of a cohort obfuscates its own update before the mean.
        rounds: Number of rounds in which the client sends an update of the same pictures; the attacker has all of
            them. With a list of numbers there is one client of each, called `NAME (3 rounds)` and so on.
        error_feedback: Whether a client of several rounds adds to each update what was withheld of the ones before.
        server_lr: What the server multiplies the update by before it subtracts it from the weights between two rounds;
            None for 1, and with `fedsgd` it must be given.
        batches: Number of batches of the source, each of other pictures; with more than one the clients are called
            `NAME 1`, `NAME 2` and so on.
        classes: Number of classes of the model; None for the number of classes that the pictures show.
        class_names: Name of each class of the model, in the order of its outputs; the names of folders, or the labels
            in the CSV, are looked up among them. Empty to number those in alphabetical order.
        training: SPEC of the local training.
        labels_csv: A CSV of labels relative to the TOML file; None for labels from sub-folders.
        gallery: Folder of the decoys and of the other client's pictures; None for the rest of `images`.
        seed: Seed of the choice of pictures and of the model's weights.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    model: Any = "lenet"
    weights: str | None = None
    normalise: Any = None
    images: str = BUILTIN
    size: Any = 64
    channels: AtLeastOne = 3
    batch: AtLeastOne = 8
    cohort: Any = 1
    cohort_obfuscates: CohortObfuscates = "mean"
    rounds: Any = 1
    error_feedback: bool = False
    server_lr: float | None = None
    batches: AtLeastOne = 1
    classes: AtLeastOne | None = None
    class_names: list[str] = dataclasses.field(default_factory=list)
    training: str = "fedsgd"
    labels_csv: str | None = None
    gallery: str | None = None
    seed: AtLeastZero = 0


@dataclass(frozen=True, kw_only=True)
class MetricsTable:
    """`[metrics]`; see `MetricSelection` for what each means, and for the default of a key that is None.

    Files are relative to the TOML file.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    lpips_weights: str | None = None
    classifier: str | None = None
    top: AtLeastOne | None = None
    probability: Annotated[float, Field(ge=0, lt=1)] | None = None
    decoys: AtLeastZero | None = None
    distance: Distance | None = None
    others: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PrivacyTable:
    """`[privacy]`; see `PrivacyTerms` for what each means, and for the default of a key that is None."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    delta: float | None = None
    rounds: AtLeastOne | None = None
    sampling: Sampling | None = None
    dataset: AtLeastOne | None = None
    adjacency: Adjacency | None = None
    claimed_epsilon: float | None = None


@dataclass(frozen=True, kw_only=True)
class AuditTable:
    """The whole file.

    Args:
        client: The clients.
        attack: The attacks, each a name or SPEC, and settings, which win over those of the SPEC.
        obfuscations: SPECs of the obfuscations.
        layers: What is sent of the layers, one choice after the other, each like one more of `obfuscations`: a list
            as `layers:send=` takes them, or `each` for the head and every block before it, each sent alone and
            kept back alone.
        seeds: Seeds of the client's, the obfuscation's and the attack's randomness.
        threat_models: What attackers are granted; see `ThreatModel.parse`.
        metrics: What reconstructions are scored with beside their pixels.
        controls: Names of updates of other pictures, on which every attack is run too; see `controls.CONTROLS`.
        enhancer: A learned prior by name, or a file of `unveil fit` relative to the TOML file.
        privacy: The terms on which differential privacy is stated; None for the usual ones.
        author: Who answers for the audit, for the head of the report; empty to name nobody.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    client: list[ClientTable]
    attack: list[dict[str, Any]]
    obfuscations: list[str] = dataclasses.field(default_factory=lambda: ["none"])
    layers: Any = dataclasses.field(default_factory=list[str])
    seeds: list[AtLeastZero] = dataclasses.field(default_factory=lambda: [0])
    threat_models: list[str] = dataclasses.field(default_factory=lambda: ["everything known"])
    metrics: MetricsTable = dataclasses.field(default_factory=lambda: MetricsTable())
    controls: list[str] = dataclasses.field(default_factory=lambda: [ANOTHER])
    enhancer: str = enhancers.NONE
    privacy: PrivacyTable | None = None
    author: str = ""


SECTIONS: Mapping[str, type] = {"client": ClientTable, "metrics": MetricsTable, "privacy": PrivacyTable}
"""Key of the whole file -> the table that it has."""


def given(table: MetricsTable | PrivacyTable) -> dict[str, Any]:
    """The keys of a table that the file has, with their values."""
    return {name: value for name, value in vars(table).items() if value is not None}


def checked(data: dict[str, Any]) -> AuditTable:
    """The tables of an audit file.

    Args:
        data: The file as TOML gives it, without its variants.

    Raises:
        UsageError: A key is unknown, missing or renamed, or a value has the wrong type.
    """
    refuse_renamed(list(data))
    try:
        # Through JSON because a strict dataclass takes tables, and arrays for lists, only from there.
        table: AuditTable = TypeAdapter(AuditTable).validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise explain(error, AuditTable, SECTIONS) from None
    return table


def explain(error: ValidationError, whole: type, sections: Mapping[str, type]) -> UsageError:
    """Return the first error of a file as one sentence.

    Args:
        error: What pydantic found.
        whole: The table of the whole file.
        sections: Key of the whole file -> the table that it has.
    """
    # A misspelt key gives two errors, unknown and missing; the user sees the unknown one in the file.
    errors = sorted(error.errors(), key=lambda item: item["type"] != "unexpected_keyword_argument")
    return UsageError(_explain(errors[0], whole, sections))


def refuse_renamed(keys: Sequence[str]) -> None:
    """Raise a `UsageError` that names the new key if one of the keys is of an old version."""
    for key in keys:
        if key in RENAMED:
            raise UsageError(f"the key {key!r} is now called {_name(RENAMED[key])!r}; write {RENAMED[key]}")


def _name(example: str) -> str:
    """The key in an example of how to write it."""
    return example.partition(" ")[0].strip("[]")


def _explain(error: ErrorDetails, whole: type, sections: Mapping[str, type]) -> str:
    """One sentence on an error of pydantic, with the fix."""
    if not error["loc"]:  # pydantic names no key where the file nests too deep
        return f"it cannot be understood ({error['msg'].lower()}); correct it there"
    *parents, key = map(str, error["loc"])
    where = f" in {'.'.join(parents)}" if parents else ""
    if error["type"] == "unexpected_keyword_argument":
        schema = sections[parents[0]] if parents else whole
        return f"unknown key {key!r}{where}; {nearest(key, [item.name for item in dataclasses.fields(schema)])}"
    if error["type"] == "missing":
        example = f"a [[{key}]] table" if not parents and key in ("client", "attack") else f'{key} = "…"'
        return f"{key!r} is missing{where}; add {example}"
    reason = error["msg"].replace("Input should be", "expected").replace("array", "list").lower()
    return f"{'.'.join([*parents, key])}: {reason}, got {quoted(error['input'])}; correct it"


def quoted(value: Any) -> str:
    """A value of the file as JSON, of at most `LONGEST` characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
