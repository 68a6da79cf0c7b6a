"""`unveil check FILE`: read every picture, build every client, and say what an audit would run and for how long."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from unveil.cli.terminal import say
from unveil.core.errors import UsageError, one_line
from unveil.core.files import amount, shown

if TYPE_CHECKING:
    from unveil.audits.audit import Audit
    from unveil.clients.client import Client
    from unveil.core.protocols import LocalTraining

IN_WORDS = {
    "cross_entropy": "cross-entropy",
    "bce": "a cross-entropy of a sigmoid for each class",
    "mse": "squared error of the scores",
}
"""Name of a loss -> what it is called in a sentence."""

MOST_LAYERS = 40
"""Most layers that are listed; of more the first and the last are."""


def check_file(path: Path, overrides: tuple[str, ...], *, variant: str | None) -> None:
    """Check an audit file and print what it describes.

    Args:
        path: The audit file.
        overrides: As in `config.load`.
        variant: Likewise.

    Raises:
        UsageError: Something in the file cannot be used. All pictures that cannot be read are named before.
    """
    from unveil.audits.memory import attacked_in, refuse_too_large
    from unveil.audits.profiling import MIB, Profiler
    from unveil.audits.timing import seconds_of_audit
    from unveil.cli.config import load
    from unveil.report.formatting import count, seconds

    _read_pictures(path, overrides, variant)
    with redirect_stdout(sys.stderr):  # a user's model may print
        audit = load(path, overrides, variant=variant)
    for client in audit.clients:
        for line in described(client):
            say(line)
    controls = count(len(audit.controls), "control")
    say(f"{count(len(audit), 'trial')}, each with {controls}: {_product(audit)}")
    say("Trying each attack on the bare update for some seconds ...", err=True)
    with redirect_stdout(sys.stderr):
        need = refuse_too_large(attacked_in(audit), audit.device)
        with Profiler(audit.device) as tried:
            taken = seconds_of_audit(audit)
    say(one_line(need.sentence))
    memory = "" if tried.peak_mib is None else f" and {amount(round(tried.peak_mib) * MIB)} of memory"
    say(
        f"About {seconds(taken)}{memory} on this machine as it is now, if obfuscated updates take as long as the bare "
        f"one; many take longer. Nothing was written. Start it with: unveil audit {shlex.quote(str(path))}"
    )


def described(client: Client) -> Iterator[str]:
    """What a client is, line by line: its pictures, its training with mode and loss, its layers, and its notes."""
    from unveil.report.formatting import count

    n, *shape = client.images.shape
    size = " x ".join(map(str, shape))
    yield f"client {client.name}: batch of {count(n, 'picture')} of {size}, {client.classes} classes"
    if client.cohort > 1:
        obfuscates = "; each obfuscates its own" if client.each_obfuscates else ""
        yield f"  a cohort of {client.cohort} clients, of whose updates the server sees only the mean{obfuscates}"
    if client.rounds > 1:
        memory = ", with error feedback" if client.error_feedback else ""
        yield f"  {client.rounds} rounds on the same pictures{memory}; the server sees all of them"
    yield f"  training {client.training}: {client.training.mode} mode, {loss_in_words(client.training)}"
    layers = list(_layers(client))
    total = sum(parameter.numel() for parameter in client.model.parameters())
    yield f"  model {client.model_name}: {count(len(layers), 'layer')} with weights, {total:,} numbers"
    if len(layers) > MOST_LAYERS:
        half = MOST_LAYERS // 2
        layers = [*layers[:half], f"... {len(layers) - 2 * half} more", *layers[-half:]]
    yield from (f"    {layer}" for layer in layers)
    yield from (f"  note: {note}" for note in client.notes)


def loss_in_words(training: LocalTraining) -> str:
    """The loss of a local training in words."""
    from unveil.core.protocols import loss_of

    loss = loss_of(training)
    smoothed = f" with label smoothing {loss.label_smoothing:g}" if loss.label_smoothing else ""
    return f"{IN_WORDS[loss.name]}{smoothed}, {loss.reduction} over the pictures"


def _layers(client: Client) -> Iterator[str]:
    """Each module with weights of its own: its name, its class, their shapes, and whether they are frozen."""
    for name, module in client.model.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            shapes = ", ".join(" x ".join(map(str, parameter.shape)) or "1" for parameter in own)
            frozen = "" if any(parameter.requires_grad for parameter in own) else ", frozen"
            yield f"{name or '(the model itself)'}  {type(module).__name__}  {shapes}{frozen}"


def _product(audit: Audit) -> str:
    from unveil.report.formatting import count

    parts = {
        "client": audit.clients,
        "threat model": audit.threat_models,
        "obfuscation": audit.obfuscations,
        "attack": audit.attacks,
        "seed": audit.seeds,
    }
    return " x ".join(count(len(values), name) for name, values in parts.items())


def _read_pictures(path: Path, overrides: tuple[str, ...], variant: str | None) -> None:
    """Read all pictures of all clients; raises a `UsageError` after each that cannot be used was named."""
    from unveil.cli.config import picture_sources
    from unveil.clients.pictures import read_all
    from unveil.report.formatting import count

    seen: set[tuple[str, str | None]] = set()
    total = 0
    for source in picture_sources(path, overrides, variant=variant):
        key = (source.images, source.labels_csv)
        if key not in seen:
            number, refused = read_all(source.images, labels_csv=source.labels_csv)
            seen.add(key)
            for sentence in refused:
                say(sentence, err=True)
            total += len(refused)
            say(f"{shown(source.images)}: {count(number, 'picture')} read, {len(refused)} cannot be used")
    if total:
        raise UsageError(f"{count(total, 'picture')} cannot be used, named above; repair or remove what is named")
