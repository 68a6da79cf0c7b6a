"""The command `inspect`: reads a recorded update, and prints what can be told of it and what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unveil.cli.recorded import declaring, fact
from unveil.cli.terminal import say, say_json
from unveil.core.errors import UsageError

if TYPE_CHECKING:
    from unveil.captures.recording import Recording
    from unveil.inspection.doctor.faults import Diagnosis
    from unveil.inspection.inspect import Inspection


def inspect_file(file: Path, *, before: Path | None, model: str | None, facts: tuple[str, ...], as_json: bool) -> None:
    """Inspect a recorded update and print the result.

    Args:
        file: The recorded update.
        before: A file of the weights before local training, where the recorded update has none.
        model: The client's network, as an audit file names it; None if it is not at hand.
        facts: `NAME=VALUE` each, a fact that the manifest does not have or has wrong.
        as_json: Whether to print one JSON object.

    Raises:
        UsageError: A file or the network cannot be used.
    """
    from unveil.captures.reading import read_recording

    recording = declaring(read_recording(file, before=before), dict(map(fact, facts)))
    with redirect_stdout(sys.stderr):  # a user's model may print
        result = _inspected(recording, model)
    said = recording.manifest.obfuscation.value
    if as_json:
        say_json(json.dumps(_plain(result), indent=2))
    else:
        say("\n".join(_lines(result, said)))


def _inspected(recording: Recording, model: str | None) -> Inspection:
    """Take the fingerprint, infer the labels if the network is known and fits, and look for faults."""
    from unveil.audits.recorded.making import recorded_client, recorded_network
    from unveil.captures.conversion import floats, nameless_update_of
    from unveil.inspection.doctor.checks import diagnose
    from unveil.inspection.inspect import inspect

    weights = floats(recording.before) if recording.client else None
    if model is None:
        found = inspect(nameless_update_of(recording), before=weights)
        return replace(found, diagnosis=diagnose(recording, obfuscation=found.fingerprint.spec))
    network = recorded_network(recording, model)
    try:
        client = recorded_client(recording, model, fingerprint=False)
    except UsageError as error:
        found = inspect(nameless_update_of(recording), before=weights)
        diagnosis = diagnose(recording, network, found.fingerprint.spec)
        if not diagnosis.faults:
            raise
        return replace(found, diagnosis=diagnosis, label_note=f"Label counts cannot be inferred: {error}")
    weights = weights and dict(client.model.named_parameters())
    found = inspect(client.update, before=weights, model=client.model, knowledge=client.knowledge)
    return replace(found, diagnosis=diagnose(recording, network, found.fingerprint.spec))


def _lines(result: Inspection, said: str | None) -> list[str]:
    """What a person reads."""
    found = result.fingerprint
    lines = [
        f"Update: {result.tensors} tensors, {result.entries:,} entries",
        f"Obfuscation: {found.spec}" + (f" (confidence {found.confidence:.2f})" if found.findings else ""),
    ]
    if said is not None:
        lines.append(f"The manifest says: {said}")
    for finding in found.findings:
        lines.append(f"  {finding.spec}: {finding.evidence}.")
        lines += [f"    cannot be told from {equal}" for equal in finding.equals]
    lines += found.notes
    if result.counts is not None:
        lines.append("Labels: " + ", ".join(f"{count} of class {label}" for label, count in result.counts.items()))
    lines.append(result.label_note)
    return [*lines, *_faults(result.diagnosis)]


def _faults(diagnosis: Diagnosis) -> list[str]:
    """What a person reads of the faults."""
    lines = ["Faults:" if diagnosis.faults else "Faults: none found"]
    for fault in diagnosis.faults:
        lines.append(f"  {fault.severity}: {fault.name}: {fault.evidence}.")
        lines.append(f"    fix: {fault.fix}" + (f": --fact '{fault.fact}'" if fault.fact is not None else ""))
        lines += [f"    or {cause}" for cause in fault.instead]
    lines += [f"  cannot be told here: {one.name}: {one.reason}" for one in diagnosis.untold]
    return lines


def _plain(result: Inspection) -> dict[str, object]:
    """What a program reads."""
    plain = dataclasses.asdict(result)
    found = result.fingerprint
    plain["fingerprint"] |= {"spec": found.spec, "confidence": round(found.confidence, 4)}
    return plain
