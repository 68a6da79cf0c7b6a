"""A recorder of updates: it observes a client's training, and writes what the client sent with all that is known.

It never stops the training that it records. What cannot be recorded becomes a warning in the log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from unveil.captures.facts import UNKNOWN, Fact
from unveil.captures.manifest import KINDS, Manifest
from unveil.captures.observed_facts import buffers_of, facts_of, observed_fact, seen_of
from unveil.captures.observing import Observer
from unveil.captures.recording import Arrays
from unveil.captures.writing import write_recording
from unveil.core.errors import UsageError, writing
from unveil.core.files import make_folder, shown, write_whole
from unveil.core.pixels import png_of

LOG = logging.getLogger("unveil")


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Where updates are recorded, and what.

    Args:
        folder: The folder of the recorded updates; it is made when it is needed, for its owner alone.
        declared: Facts that the user declares; they stand above what is observed.
        keep_labels: Write the labels that training was seen to use, which an attacker is then granted.
        keep_pictures: Write the pictures that training was seen to use, a folder of PNG beside each recorded update,
            as `unveil audit --truth` reads them.
    """

    folder: Path
    declared: Manifest = field(default_factory=Manifest)
    keep_labels: bool = False
    keep_pictures: bool = False

    @classmethod
    def into(
        cls, folder: str | Path, *, keep_labels: bool = False, keep_pictures: bool = False, **declared: Any
    ) -> Recorder:
        """Return a recorder into a folder, with facts that the user declares, such as `momentum=0.9`.

        Raises:
            UsageError: There is no such fact, or it cannot have this value.
        """
        try:
            manifest = Manifest().declaring(**declared)
        except (ValueError, TypeError) as error:
            raise UsageError(f"recorder: {error}; docs/format.md lists the facts") from None
        place = Path(folder).absolute()  # simulators work elsewhere
        return cls(folder=place, declared=manifest, keep_labels=keep_labels, keep_pictures=keep_pictures)

    def observer(self, *, all_threads: bool = False) -> Observer:
        """Return an observer of a client's training; see `Observer`."""
        return Observer(keep_pictures=self.keep_pictures, all_threads=all_threads)

    def record(
        self,
        *,
        client: str,
        round: int | None,
        before: Arrays,
        sent: Arrays,
        part: str = "client",
        facts: Mapping[str, Fact[Any]] | None = None,
        observer: Observer | None = None,
    ) -> Path:
        """Write one update as `round-1_NAME.safetensors`; a file of this name is replaced.

        Inside a training it belongs into a `with attempting():` block.

        Args:
            client: The client's name.
            round: Number of the round; None if it is not known.
            before: The weights before local training, by name.
            sent: What the client sent, in its order.
            part: What that is: `client` for values after local training, `delta` for their change.
            facts: What is known from elsewhere, such as the framework; what was observed stands above it.
            observer: What observed the training; None if nothing did.

        Returns:
            The file.

        Raises:
            UsageError: The update or its pictures cannot be written.
        """
        path, manifest = self._written(client, round, before, {part: sent}, facts or {}, observer)
        if self.keep_pictures and observer is not None:
            pictures = [observer.pictures[key] for key in seen_of(observer.steps).labels]
            keep(pictures, manifest.normalisation, path.with_suffix(""))
        return path

    def _written(
        self,
        client: str,
        number: int | None,
        before: Arrays,
        parts: Mapping[str, Arrays],
        facts: Mapping[str, Fact[Any]],
        observer: Observer | None,
    ) -> tuple[Path, Manifest]:
        steps = [] if observer is None else observer.steps
        sent = next(iter(parts.values()))
        seen = seen_of(steps)
        labels = tuple(seen.labels.values())
        own = {
            "client": observed_fact("client", client[:200]),
            "round": observed_fact("round", number),
            "buffers": observed_fact("buffers", buffers_of(steps, sent)),
            **facts,
            **facts_of(steps),
            "labels": observed_fact("labels", labels if self.keep_labels and labels and None not in labels else None),
        }
        own["normalisation"] = _normalisation(own.get("input_range", UNKNOWN), own.get("image_shape", UNKNOWN))
        known = {name: fact for name in KINDS if (fact := self._declared(name) or own.get(name, UNKNOWN)) != UNKNOWN}
        manifest = replace(Manifest(), order=tuple(sent), **known)
        stem = "_".join([*([] if number is None else [f"round-{number}"]), re.sub(r"[^\w.-]+", "-", client)])[:200]
        path = self.folder / f"{stem}.safetensors"
        with writing(self.folder, "the recorder's folder"):
            make_folder(self.folder, private=True)
        write_recording(path, manifest=manifest, before=_as_loaded(before, sent), **parts)
        return path, manifest

    def _declared(self, name: str) -> Fact[Any] | None:
        fact: Fact[Any] = self.declared.facts[name]
        return None if fact == UNKNOWN else fact


@contextmanager
def attempting() -> Iterator[None]:
    """Turn an error inside the `with` block into a warning in the log, because a recorder never stops a training."""
    try:
        yield
    except Exception as error:
        LOG.warning("unveil did not record an update: %s", error)


def keep(images: Sequence[Shaped[Tensor, "c h w"]], normalisation: Fact[Any], folder: Path) -> None:
    """Write pictures as PNG into a folder for its owner alone, in their order.

    Args:
        images: The pictures as the network got them.
        normalisation: The fact of that name.
        folder: The folder; it is made if it is not there.

    Raises:
        UsageError: It is not known how the pictures were normalised, or the folder cannot be written.
    """
    if normalisation.value is None:
        raise UsageError(
            f"the pictures of {shown(folder)} were normalised before the network, so they were not kept; say how with "
            "normalisation={'mean': [...], 'std': [...]}"
        )
    mean, std = (torch.tensor(normalisation.value[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with writing(folder, "the recorder's folder"):
        make_folder(folder, private=True)
        for number, image in enumerate(images):
            write_whole(folder / f"{number:05d}.png", png_of(image.float() * std + mean), private=True)


def _as_loaded(before: Arrays, sent: Arrays) -> Arrays:
    """Return the weights before as the client's network holds them: a server's mean of counters is no whole number."""

    def loaded(name: str, tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        other = sent.get(name, tensor)
        return tensor if tensor.is_floating_point() == other.is_floating_point() else tensor.to(other.dtype)

    return {name: loaded(name, tensor) for name, tensor in before.items()}


def _normalisation(input_range: Fact[Any], image_shape: Fact[Any]) -> Fact[Any]:
    """Return that pictures were not normalised, if the values that the network got look like it; else unknown."""
    if input_range.value is None or image_shape.value is None:
        return UNKNOWN
    low, high = input_range.value
    planes = image_shape.value[0]
    if not (low >= 0 and 0.5 < high <= 1):
        return UNKNOWN
    return Fact(value={"mean": [0.0] * planes, "std": [1.0] * planes}, source="estimated")
