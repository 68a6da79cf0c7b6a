"""The audit file: TOML to `Audit`, strict. What is not understood is refused by name."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from unveil import attacks, enhancers, obfuscations
from unveil.audits.audit import Audit
from unveil.audits.controls import ANOTHER
from unveil.audits.scoring import Distance, MetricSelection
from unveil.audits.threat_model import ThreatModel
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.models import ModelName
from unveil.clients.models.normalisation import Normalisation
from unveil.clients.pictures import BUILTIN
from unveil.core.errors import UsageError, nearest
from unveil.core.files import MIB, is_regular, read_bytes, reason_of, shown
from unveil.core.protocols import Attack, Enhancer
from unveil.core.registry import construct, split, toml_value
from unveil.metrics.perceptual import DOWNLOAD

LARGEST = 16 * MIB  # of an audit file
_STRICT = ConfigDict(extra="forbid", strict=True)

LONGEST = 200  # characters of what a file holds, in a message
MOST = 2**63 - 1  # what torch takes for a seed
AtLeastOne = Annotated[int, Field(ge=1, le=MOST)]
AtLeastZero = Annotated[int, Field(ge=0, le=MOST)]


@dataclass(frozen=True, kw_only=True)
class ClientTable:
    """A `[[client]]`: one client.

    Args:
        name: Its name in results; no two clients share one.
        model: A model of the zoo, or `package.module:factory?key=value`; or a table of its name and its arguments.
        weights: A file of trained weights relative to the TOML file; None for those that the model is built with.
        normalise: `mean` and `std` that stand before the model, a number or one a channel; None for none.
        images: `builtin`, or a folder relative to the TOML file.
        size: Height and width of the pictures in pixels, or both in a list.
        channels: 3 for RGB, 1 for grey.
        batch: Pictures in the batch.
        classes: Classes the model tells apart; None for as many as the pictures have.
        training: SPEC of the local training.
        labels_csv: A CSV of labels relative to the TOML file; None for labels from sub-folders.
        gallery: Where decoys and the other client's pictures come from; None for the rest of `images`.
        seed: Seed of the choice of pictures and of the model's weights.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    name: str
    model: Any = "lenet"
    weights: str | None = None
    normalise: Any = None
    images: str = BUILTIN
    size: Any = 64
    channels: AtLeastOne = 3
    batch: AtLeastOne = 8
    classes: AtLeastOne | None = None
    training: str = "fedsgd"
    labels_csv: str | None = None
    gallery: str | None = None
    seed: AtLeastZero = 0


@dataclass(frozen=True, kw_only=True)
class MetricsTable:
    """`[metrics]`; see `MetricSelection` for what each means. Files are relative to the TOML file."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    lpips_weights: str | None = None
    classifier: str | None = None
    top: AtLeastOne = 5
    probability: Annotated[float, Field(ge=0, lt=1)] = 0.05
    decoys: AtLeastZero = 0
    distance: Distance = "pixels"
    others: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class AuditTable:
    """The whole file.

    Args:
        client: The clients.
        attack: The attacks, each a name or SPEC, and settings, which win over those of the SPEC.
        obfuscations: SPECs of the channels.
        seeds: Seeds of the channel's and the attack's randomness.
        threat_models: How much the attackers are granted; see `ThreatModel.parse`.
        metrics: What reconstructions are scored with beside their pixels.
        controls: Updates that know nothing of the pictures, on which every attack is run too.
        enhancer: A learned prior by name, or a file of `unveil fit` relative to the TOML file.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    client: list[ClientTable]
    attack: list[dict[str, Any]]
    obfuscations: list[str] = dataclasses.field(default_factory=lambda: ["none"])
    seeds: list[AtLeastZero] = dataclasses.field(default_factory=lambda: [0])
    threat_models: list[str] = dataclasses.field(default_factory=lambda: ["everything known"])
    metrics: MetricsTable = dataclasses.field(default_factory=lambda: MetricsTable())
    controls: list[str] = dataclasses.field(default_factory=lambda: [ANOTHER])
    enhancer: str = enhancers.NONE


def load(path: Path, overrides: Sequence[str] = (), *, variant: str | None = None) -> Audit:
    """Read an audit file.

    Args:
        path: The TOML file; paths in it are relative to its folder.
        overrides: `key=value` each, as in `attack.0.steps=50`; the value is TOML, or else a plain string.
        variant: Name of one of the file's own sets of overrides, `[variant.NAME]`, applied before the others.

    Raises:
        UsageError: The file cannot be read, or something in it is unknown, missing or does not fit.
    """
    data = _read(path)
    variants = data.pop("variant", {})
    if variant is not None:
        for key, value in _chosen(path, variants, variant).items():
            _set(data, key, value, f"{path}, variant {variant}, {key}")
    for override in overrides:
        _override(data, override)
    with _naming(" with ".join([str(path), *(f"--set {override}" for override in overrides)])):
        table = _checked(data)
        channels = [obfuscations.parse(spec) for spec in table.obfuscations]
        threat_models = [_attack(number, settings) for number, settings in enumerate(table.attack)]
        return Audit(
            clients=[_client(number, client, path.parent, table) for number, client in enumerate(table.client)],
            obfuscations=channels,
            attacks=threat_models,
            seeds=table.seeds,
            threat_models=[ThreatModel.parse(words) for words in table.threat_models],
            metrics=_metrics(table.metrics, path.parent),
            controls=table.controls,
            enhancer=_enhancer(table.enhancer, path.parent),
        )


def _read(path: Path) -> dict[str, Any]:
    absent = f"write one to start from with `unveil init {shown(path)}`"
    content = read_bytes(path, "", fix="give a TOML file", absent=absent, most=LARGEST)
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown(path)} is not TOML: {reason_of(error)}; correct it there") from None


def _chosen(path: Path, variants: Any, name: str) -> dict[str, Any]:
    """The overrides of a variant."""
    there = variants if isinstance(variants, dict) else {}
    if not isinstance(there.get(name), dict):
        wanted = nearest(name, list(there)) if there else "it has none; drop --variant"
        raise UsageError(f"{path} has no variant {name!r}; {wanted}")
    found: dict[str, Any] = there[name]
    return found


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, raw = text.partition("=")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # bytes of the command line that are no text
        raise UsageError(f"--set {shown(text)}: expected UTF-8; rename what it names")
    if not equals:
        raise UsageError(f"--set {text}: expected KEY=VALUE, such as attack.0.steps=50")
    _set(data, key.strip(), toml_value(raw.strip()), f"--set {text}")


def _set(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set one value in place, its key dotted and tables counted from 0."""
    *parents, last = key.split(".")
    place: Any = data
    for part in parents:
        try:
            place = place[_number(part)] if isinstance(place, list) else place[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise UsageError(
                f"{where}: the file has no {part!r} there; write KEY as in attack.0.steps, counting from 0"
            ) from None
    if not isinstance(place, dict):
        raise UsageError(f"{where}: {'.'.join(parents)} is not a table; write KEY as in attack.0.steps")
    place[last] = value


def _number(part: str) -> int:
    """Which table of a list is meant; those from the end are not counted."""
    if not (part.isascii() and part.isdecimal()):
        raise ValueError(part)
    return int(part)


def _checked(data: dict[str, Any]) -> AuditTable:
    try:
        # Through JSON because a strict dataclass takes tables, and arrays for lists, only from there.
        table: AuditTable = TypeAdapter(AuditTable).validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        # A misspelt key is also a missing one: the former is what the user can see.
        errors = sorted(error.errors(), key=lambda item: item["type"] != "unexpected_keyword_argument")
        raise UsageError(_explain(errors[0])) from None
    return table


def _explain(error: ErrorDetails) -> str:
    if not error["loc"]:  # the whole of it: nested deeper than anything that is meant
        return f"it cannot be understood ({error['msg'].lower()}); correct it there"
    *parents, key = map(str, error["loc"])
    where = f" in {'.'.join(parents)}" if parents else ""
    if error["type"] == "unexpected_keyword_argument":
        schema = {"client": ClientTable, "metrics": MetricsTable}[parents[0]] if parents else AuditTable
        return f"unknown key {key!r}{where}; {nearest(key, [item.name for item in dataclasses.fields(schema)])}"
    if error["type"] == "missing":
        example = f"a [[{key}]] table" if not parents else f'{key} = "…"'
        return f"{key!r} is missing{where}; add {example}"
    reason = error["msg"].replace("Input should be", "expected").replace("array", "list").lower()
    return f"{'.'.join([*parents, key])}: {reason}, got {_shown(error['input'])}; correct it"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _attack(number: int, table: dict[str, Any]) -> Attack:
    settings = dict(table)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"attack.{number} needs a name; {nearest(str(name), list(attacks.CATALOGUE))}")
    name, in_spec = split("attack", name, attacks.CATALOGUE)
    attack: Attack = construct("attack", attacks.CATALOGUE, name, {**in_spec, **settings})
    return attack


def _enhancer(name: str, folder: Path) -> Enhancer | None:
    named = name == enhancers.NONE or name in enhancers.CATALOGUE
    return enhancers.parse(name if named or not is_regular(folder / name) else _beside(folder, name))


def _metrics(table: MetricsTable, folder: Path) -> MetricSelection:
    settings = {item.name: getattr(table, item.name) for item in dataclasses.fields(table)}
    if table.lpips_weights not in (None, DOWNLOAD):
        settings["lpips_weights"] = _beside(folder, str(table.lpips_weights))
    settings["others"] = tuple(table.others)
    kind, _, file = (table.classifier or "").partition(":")
    if kind == "cifar10" and file:
        settings["classifier"] = f"cifar10:{_beside(folder, file)}"
    return MetricSelection(**settings)


def _client(number: int, table: ClientTable, folder: Path, audit: AuditTable) -> Client:
    where = f"client.{number}"
    client = make_client(
        name=table.name,
        model=_model(f"{where}.model", table.model),
        images=BUILTIN if table.images == BUILTIN else _beside(folder, table.images),
        size=_size(f"{where}.size", table.size),
        batch=table.batch,
        channels=table.channels,
        classes=table.classes,
        training=training.parse(table.training),
        weights=None if table.weights is None else _beside(folder, table.weights),
        normalisation=_normalisation(f"{where}.normalise", table.normalise, table.channels),
        labels_csv=None if table.labels_csv is None else _beside(folder, table.labels_csv),
        gallery=None if table.gallery is None else _beside(folder, table.gallery),
        seed=table.seed,
        decoys=audit.metrics.decoys,
        others=ANOTHER in audit.controls,
    )
    # Results name the folder as the file does: the way to it from here is nobody's business.
    return dataclasses.replace(client, source=table.images)


def _model(where: str, given: Any) -> ModelName:
    if isinstance(given, str):
        return ModelName.parse(given)
    arguments = dict(given) if isinstance(given, dict) else {}
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(
            f"{where}: expected a name, or a table with one and the factory's arguments, got {_shown(given)}; "
            'write name = "package.module:factory"'
        )
    named = ModelName.parse(name)
    for key in arguments:
        if not key.isidentifier() or key in named.arguments:
            why = "is given twice" if key in named.arguments else "is no argument's name"
            raise UsageError(f"{where}: {key!r} {why}; correct it")
    return dataclasses.replace(named, arguments={**named.arguments, **arguments})


def _size(where: str, given: Any) -> int | tuple[int, int]:
    sides = given if isinstance(given, list) and len(given) == 2 else [given]
    if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides):
        raise UsageError(
            f"{where}: expected pixels, at least 1, or [height, width], got {_shown(given)}; 32 to 128 is usual"
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _normalisation(where: str, given: Any, channels: int) -> Normalisation | None:
    if given is None:
        return None
    if not isinstance(given, dict) or set(given) != {"mean", "std"}:
        raise UsageError(
            f"{where}: expected a table with mean and std, got {_shown(given)}; "
            "write normalise = { mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }"
        )
    return Normalisation.of(given["mean"], given["std"], channels=channels)


def _beside(folder: Path, path: str) -> str:
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path!r}: {str(error).rstrip('.').lower()}; write the path in full") from None
    if "\0" in path:
        raise UsageError(f"{path!r} holds a null character, as no path does; correct it")
    return str(folder / found)


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Put where it came from before the message of a `UsageError`."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
