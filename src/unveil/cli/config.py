"""The audit file: TOML to `Audit`. `schema` has the keys; an unknown key is refused by name."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unveil import attacks, enhancers, obfuscations
from unveil.audits.audit import Audit
from unveil.audits.controls import ANOTHER
from unveil.audits.scoring import MetricSelection
from unveil.audits.threat_model import ThreatModel
from unveil.cli.schema import ClientTable, MetricsTable, checked, given, quoted, refuse_renamed
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.models import ModelName
from unveil.clients.models.normalisation import Normalisation
from unveil.clients.pictures import BUILTIN
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError, nearest
from unveil.core.files import MIB, is_regular, read_bytes, reason_of, shown
from unveil.core.protocols import Attack, Enhancer
from unveil.core.registry import construct, split, toml_value
from unveil.core.third_parties import modules_beside
from unveil.metrics.perceptual import DOWNLOAD
from unveil.privacy.terms import PrivacyTerms

LARGEST = 16 * MIB  # of an audit file
MOST_CLIENTS = 100_000  # of a cohort
MOST_ROUNDS = 1000


def load(path: Path, overrides: Sequence[str] = (), *, variant: str | None = None) -> Audit:
    """Read an audit file.

    Args:
        path: The TOML file; paths in it are relative to its folder, in which modules that it names are looked for too.
        overrides: `key=value` each, as in `attack.0.steps=50`; the value is TOML, or else a plain string.
        variant: Name of one of the file's own sets of overrides, `[variant.NAME]`, applied before the others.

    Raises:
        UsageError: The file cannot be read, or something in it is unknown, missing or does not fit.
    """
    data = overridden(path, overrides, variant)
    with naming(source_of(path, overrides)), modules_beside(path.parent):
        table = checked(data)
        metrics = read_metrics(table.metrics, path.parent)
        return Audit(
            clients=[
                _client(
                    number,
                    place,
                    cohort,
                    rounds,
                    client,
                    path.parent,
                    decoys=metrics.decoys,
                    others=ANOTHER in table.controls,
                )
                for number, client in enumerate(table.client)
                for cohort in _numbers(f"client.{number}.cohort", client.cohort, "clients", MOST_CLIENTS)
                for rounds in _numbers(f"client.{number}.rounds", client.rounds, "rounds", MOST_ROUNDS)
                for place in range(client.batches)
            ],
            obfuscations=[obfuscations.parse(spec) for spec in table.obfuscations],
            attacks=[_attack(number, settings) for number, settings in enumerate(table.attack)],
            seeds=table.seeds,
            threat_models=[ThreatModel.parse(words) for words in table.threat_models],
            metrics=metrics,
            controls=table.controls,
            enhancer=_enhancer(table.enhancer, path.parent),
            author=table.author,
            privacy=None if table.privacy is None else PrivacyTerms(**given(table.privacy)),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureSource:
    """Where the pictures of a client come from.

    Args:
        client: The client's name.
        images: `builtin`, or a folder.
        labels_csv: A file of labels; None for sub-folders.
    """

    client: str
    images: str
    labels_csv: str | None


def picture_sources(path: Path, overrides: Sequence[str] = (), *, variant: str | None = None) -> list[PictureSource]:
    """The sources of pictures that an audit file names, without opening them; arguments and errors as in `load`."""
    data = overridden(path, overrides, variant)
    with naming(source_of(path, overrides)):
        return [
            PictureSource(
                client=client.name,
                images=_images(client, path.parent),
                labels_csv=None if client.labels_csv is None else beside(path.parent, client.labels_csv),
            )
            for client in checked(data).client
        ]


def overridden(path: Path, overrides: Sequence[str], variant: str | None) -> dict[str, Any]:
    """The file as TOML, with the overrides of its variant and of the command line."""
    data = _read(path)
    variants = data.pop("variant", {})
    if variant is not None:
        for key, value in _chosen(path, variants, variant).items():
            _set(data, key, value, f"{path}, variant {variant}, {key}")
    for override in overrides:
        _override(data, override)
    return data


def source_of(path: Path, overrides: Sequence[str]) -> str:
    """What the messages name: the file and its overrides."""
    return " with ".join([str(path), *(f"--set {override}" for override in overrides)])


def _read(path: Path) -> dict[str, Any]:
    """The file as TOML."""
    absent = f"write one to start from with `unveil init {shown(path)}`"
    content = read_bytes(path, "", fix="give a TOML file", absent=absent, most=LARGEST)
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown(path)} is not TOML: {reason_of(error)}; correct it there") from None


def _chosen(path: Path, variants: Any, name: str) -> dict[str, Any]:
    """The overrides of the variant `name`."""
    there = variants if isinstance(variants, dict) else {}
    if not isinstance(there.get(name), dict):
        wanted = nearest(name, list(there)) if there else "it has none; drop --variant"
        raise UsageError(f"{path} has no variant {name!r}; {wanted}")
    found: dict[str, Any] = there[name]
    return found


def _override(data: dict[str, Any], text: str) -> None:
    """Apply one `KEY=VALUE` of `--set` in place."""
    key, equals, raw = text.partition("=")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # the command line held bytes that are not UTF-8
        raise UsageError(f"--set {shown(text)}: expected UTF-8; rename the file or the value")
    if not equals:
        raise UsageError(f"--set {text}: expected KEY=VALUE, such as attack.0.steps=50")
    _set(data, key.strip(), toml_value(raw.strip()), f"--set {text}")


def _set(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set one value in place; dots in the key part tables, and tables of a list are numbered from 0.

    A table that the file does not have is made, and so is the next table of a list.
    """
    *parents, last = key.split(".")
    with naming(where):
        refuse_renamed(parents[:1] or [last])
    place: Any = data
    for part, inner in zip(parents, key.split(".")[1:], strict=True):
        try:
            place = _table(place, part, of_list=inner.isdecimal())
        except (KeyError, IndexError, ValueError, TypeError):
            raise UsageError(
                f"{where}: the file has no {part!r} there; write KEY as in attack.0.steps, counting from 0"
            ) from None
    if not isinstance(place, dict):
        raise UsageError(f"{where}: {'.'.join(parents)} is not a table; write KEY as in attack.0.steps")
    place[last] = value


def _table(place: Any, part: str, *, of_list: bool) -> Any:
    """The table or list under one part of a key; an empty one is made if it is missing.

    Args:
        place: The table or list that holds it.
        part: Its key, or its number in a list, which may be the next one.
        of_list: Whether a missing one is a list of tables.
    """
    if isinstance(place, list):
        number = _number(part)
        if number == len(place):
            place.append({})
        return place[number]
    if isinstance(place, dict):
        return place.setdefault(part, [] if of_list else {})
    raise TypeError(part)


def _number(part: str) -> int:
    """The number of a table in a list; negative numbers are refused."""
    if not (part.isascii() and part.isdecimal()):
        raise ValueError(part)
    return int(part)


def _attack(number: int, table: dict[str, Any]) -> Attack:
    """The attack of table `number`, counted from 0; settings of the table win over those of the SPEC."""
    settings = dict(table)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"attack.{number} needs a name; {nearest(str(name), list(attacks.CATALOGUE))}")
    name, in_spec = split("attack", name, attacks.CATALOGUE)
    attack: Attack = construct("attack", attacks.CATALOGUE, name, {**in_spec, **settings})
    return attack


def _enhancer(name: str, folder: Path) -> Enhancer | None:
    """The enhancer by name, or from a file relative to the folder of the audit file."""
    named = name == enhancers.NONE or name in enhancers.CATALOGUE
    return enhancers.parse(name if named or not is_regular(folder / name) else beside(folder, name))


def read_metrics(table: MetricsTable, folder: Path) -> MetricSelection:
    """The selection of metrics; files are relative to the folder of the audit file."""
    settings = given(table)
    if table.lpips_weights not in (None, DOWNLOAD):
        settings["lpips_weights"] = beside(folder, str(table.lpips_weights))
    settings["others"] = tuple(table.others)
    kind, _, file = (table.classifier or "").partition(":")
    if kind == "cifar10" and file:
        settings["classifier"] = f"cifar10:{beside(folder, file)}"
    return MetricSelection(**settings)


def _client(
    number: int, place: int, cohort: int, rounds: int, table: ClientTable, folder: Path, *, decoys: int, others: bool
) -> Client:
    """The cohort and rounds of batch `place` of table `number`, both from 0; files are relative to the audit file."""
    where = f"client.{number}"
    size = f" (cohort {cohort})" if isinstance(table.cohort, list) else ""
    batch = "" if table.batches == 1 else f" {place + 1}"
    several = f" ({rounds} round{'s' if rounds > 1 else ''})" if isinstance(table.rounds, list) else ""
    local = training.parse(table.training)
    if rounds > 1 and table.server_lr is None and isinstance(local, FedSGD):
        raise UsageError(
            f"{where}.rounds: between two rounds the server multiplies a gradient by its learning rate; set server_lr, "
            "such as 0.1"
        )
    if table.error_feedback and table.rounds == 1:
        raise UsageError(f"{where}.error_feedback: one round has no next one; set rounds = [1, 3], or leave it out")
    client = make_client(
        name=f"{table.name}{size}{several}{batch}",
        model=read_model(f"{where}.model", table.model),
        images=_images(table, folder),
        size=read_size(f"{where}.size", table.size),
        batch=table.batch,
        channels=table.channels,
        classes=table.classes,
        class_names=table.class_names,
        training=local,
        weights=None if table.weights is None else beside(folder, table.weights),
        normalisation=read_normalisation(f"{where}.normalise", table.normalise, table.channels),
        labels_csv=None if table.labels_csv is None else beside(folder, table.labels_csv),
        gallery=None if table.gallery is None else beside(folder, table.gallery),
        seed=table.seed,
        decoys=decoys,
        others=others,
        place=place,
        batches=table.batches,
        cohort=cohort,
    )
    # Results show the folder as the audit file writes it, not the full path on this machine.
    return dataclasses.replace(
        client,
        source=table.images,
        cohort_of=f"{table.name}{several}{batch}" if size else "",
        rounds=rounds,
        error_feedback=table.error_feedback and rounds > 1,
        server_lr=1.0 if table.server_lr is None else table.server_lr,
        rounds_of=f"{table.name}{size}{batch}" if several else "",
    )


def _numbers(where: str, given: Any, what: str, most: int) -> list[int]:
    """Numbers of clients or rounds, from one number or a list."""
    numbers = given if isinstance(given, list) else [given]
    if not numbers or not all(isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= most for k in numbers):
        raise UsageError(
            f"{where}: expected a number of {what} from 1 to {most:,}, or a list of such numbers, got "
            f"{quoted(given)}; write {where.rpartition('.')[2]} = [1, 2, 4]"
        )
    return numbers


def _images(table: ClientTable, folder: Path) -> str:
    """The source of a client's pictures; a folder is relative to the folder of the audit file."""
    return BUILTIN if table.images == BUILTIN else beside(folder, table.images)


def read_model(where: str, given: Any) -> ModelName:
    """A model's name and arguments, from a string or from a table."""
    if isinstance(given, str):
        return ModelName.parse(given)
    arguments = dict(given) if isinstance(given, dict) else {}
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(
            f"{where}: expected a name, or a table with one and the factory's arguments, got {quoted(given)}; "
            'write name = "package.module:factory"'
        )
    named = ModelName.parse(name)
    for key in arguments:
        if not key.isidentifier() or key in named.arguments:
            why = "is given twice" if key in named.arguments else "is no argument's name"
            raise UsageError(f"{where}: {key!r} {why}; correct it")
    return dataclasses.replace(named, arguments={**named.arguments, **arguments})


def read_size(where: str, given: Any) -> int | tuple[int, int]:
    """Height and width in pixels, from one number or a list of two."""
    sides = given if isinstance(given, list) and len(given) == 2 else [given]
    if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides):
        raise UsageError(
            f"{where}: expected pixels, at least 1, or [height, width], got {quoted(given)}; 32 to 128 is usual"
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def read_normalisation(where: str, given: Any, channels: int) -> Normalisation | None:
    """The normalisation of a table with `mean` and `std`; None for none."""
    if given is None:
        return None
    if not isinstance(given, dict) or set(given) != {"mean", "std"}:
        raise UsageError(
            f"{where}: expected a table with mean and std, got {quoted(given)}; "
            "write normalise = { mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }"
        )
    return Normalisation.of(given["mean"], given["std"], channels=channels)


def beside(folder: Path, path: str) -> str:
    """A path of the audit file, relative to its folder."""
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path!r}: {str(error).rstrip('.').lower()}; write the path in full") from None
    if "\0" in path:
        raise UsageError(f"{path!r} holds a null character, as no path does; correct it")
    return str(folder / found)


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the source before the message of a `UsageError`."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
