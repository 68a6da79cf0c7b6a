"""`unveil audit` of recorded updates: from the options of the command line to a `RecordedAudit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unveil.core.errors import UsageError
from unveil.core.files import is_folder, shown

if TYPE_CHECKING:
    from unveil.audits.kept_pictures import Kept
    from unveil.audits.recorded.audit import RecordedAudit
    from unveil.captures.recording import Recording

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class RecordedOptions:
    """Options of `unveil audit` that are for recorded updates alone.

    Args:
        model: `package.module:factory` of the client's network; None if it was not given.
        weights: File with the weights before local training, for recordings that are differences or gradients.
        before: File with the weights before local training, for recordings that are weights.
        truth: Folder of the client's pictures; of several clients, one with a folder for each, called like its file.
        decoys: Folder of other pictures, among which re-identification looks for each original.
        facts: `NAME=VALUE` each, a fact that the manifest does not have or has wrong.
        attacks: SPECs; empty for unveil's own.
        seeds: Seeds; empty for 0.
    """

    model: str | None = None
    weights: str | None = None
    before: Path | None = None
    truth: Path | None = None
    decoys: Path | None = None
    facts: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    @property
    def given(self) -> list[str]:
        """Names of the options that were given, as on the command line."""
        names = {"before": "--global", "facts": "--fact", "attacks": "--attack", "seeds": "--seed"}
        return [names.get(name, f"--{name}") for name, value in vars(self).items() if value not in (None, ())]


def is_recorded(path: Path) -> bool:
    """Return whether a path names a recorded update or a folder that holds one, and no audit file."""
    if not is_folder(path):
        return path.suffix.lower() in SUFFIXES
    try:
        return any(file.suffix.lower() in SUFFIXES for file in path.iterdir())
    except OSError:  # the folder cannot be read, which is said when it is opened
        return False


def recorded_audit(
    path: Path, options: RecordedOptions, lpips_weights: str | None = None, *, images: Kept = "blurred"
) -> RecordedAudit:
    """Read recorded updates and describe their audit.

    Args:
        path: A recorded update, or a folder of them.
        options: The options of the command line.
        lpips_weights: File of LPIPS weights, or `download`; None to leave LPIPS out.
        images: Which pictures the results keep.

    Raises:
        UsageError: Something cannot be read, used, or is missing.
    """
    from unveil import attacks
    from unveil.audits.recorded.audit import RecordedAudit
    from unveil.audits.recorded.making import recorded_client
    from unveil.audits.recorded.truth import load_truth
    from unveil.captures.reading import read_recordings
    from unveil.metrics import CATALOGUE
    from unveil.metrics.perceptual import lpips

    if options.model is None:
        raise UsageError(
            f"{shown(path)} is a recorded update, which does not hold the client's network; name it with "
            "--model package.module:factory"
        )
    recordings = read_recordings(path, before=options.before)
    facts = dict(fact(text) for text in options.facts)
    clients = [
        recorded_client(
            declaring(recording, facts),
            options.model,
            weights=options.weights,
            truth=options.truth and (options.truth / recording.path.stem if len(recordings) > 1 else options.truth),
        )
        for recording in recordings
    ]
    names = [client.name for client in clients]
    clients = [
        client if names.count(client.name) == 1 else replace(client, name=f"{client.name} ({recording.path.name})")
        for client, recording in zip(clients, recordings, strict=True)
    ]
    return RecordedAudit(
        clients=clients,
        attacks=[attacks.parse(spec) for spec in options.attacks or ("unveil",)],
        seeds=options.seeds or (0,),
        images=images,
        decoys=None if options.decoys is None else load_truth(options.decoys, clients[0].shape[1:], "--decoys"),
        metrics=CATALOGUE if lpips_weights is None else {**CATALOGUE, "lpips": lpips(lpips_weights)},
    )


def fact(text: str) -> tuple[str, Any]:
    """Return name and value of one `--fact`; the value is TOML, or else a plain text."""
    from unveil.core.registry import toml_value

    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--fact {shown(text)}: expected NAME=VALUE, such as examples=8")
    return name.strip(), toml_value(value.strip())


def declaring(recording: Recording, facts: Mapping[str, Any]) -> Recording:
    """Return the recording with these facts in its manifest instead of its own; `unknown` takes a fact away."""
    known = {name: None if value == UNKNOWN else value for name, value in facts.items()}
    try:
        manifest = recording.manifest.declaring(**known)
    except (ValueError, TypeError) as error:  # the latter for a date of TOML, which is no JSON
        raise UsageError(f"--fact: {error}; docs/format.md lists the facts") from None
    return replace(recording, manifest=manifest)
