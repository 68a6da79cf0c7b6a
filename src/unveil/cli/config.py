"""The audit file: TOML to `Audit`. `schema` has the keys; an unknown key is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unveil import attacks, enhancers, obfuscations
from unveil.audits.audit import Audit
from unveil.audits.controls import ANOTHER
from unveil.audits.scoring import MetricSelection
from unveil.audits.threat_model import ThreatModel
from unveil.cli.client_table import clients_of, images_of
from unveil.cli.layers import choices_of
from unveil.cli.schema import MetricsTable, checked, given
from unveil.cli.toml_files import beside, naming, overridden, source_of
from unveil.core.errors import UsageError, nearest
from unveil.core.files import is_regular
from unveil.core.protocols import Attack, Enhancer
from unveil.core.registry import construct, split
from unveil.core.third_parties import modules_beside
from unveil.metrics.perceptual import DOWNLOAD
from unveil.privacy.terms import PrivacyTerms


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
        clients = [
            client
            for number, one in enumerate(table.client)
            for client in clients_of(number, one, path.parent, decoys=metrics.decoys, others=ANOTHER in table.controls)
        ]
        sent = choices_of(table.layers, clients)
        return Audit(
            clients=clients,
            obfuscations=[obfuscations.parse(spec) for spec in (*table.obfuscations, *sent)],
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
                images=images_of(client, path.parent),
                labels_csv=None if client.labels_csv is None else beside(path.parent, client.labels_csv),
            )
            for client in checked(data).client
        ]


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
