"""A recorder for NVFlare's client API: what a training script receives and sends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unveil.captures.nvflare.records import framework, tensors_of
from unveil.captures.observing import Observer
from unveil.captures.recorder import Recorder, attempting
from unveil.captures.recording import Arrays


@dataclass(frozen=True, kw_only=True)
class Received:
    """What a client received in a round, and what observes its training.

    Args:
        before: The weights before local training, by name.
        number: Number of the round; None if it is not known.
        observer: What observes the training.
    """

    before: Arrays
    number: int | None
    observer: Observer


class RecordedAPI:
    """NVFlare's client API, whose `receive` and `send` also record; everything else is the API's own.

    Args:
        api: The module `nvflare.client`.
        recorder: Where updates are recorded, and what.
    """

    def __init__(self, api: Any, recorder: Recorder) -> None:
        self._api = api
        self._recorder = recorder
        self._received: Received | None = None

    def __getattr__(self, name: str) -> Any:
        """Return what the API has."""
        return getattr(self._api, name)

    def receive(self, *args: Any, **kwargs: Any) -> Any:
        """Receive a model, and observe what is done with it until an update is sent."""
        model = self._api.receive(*args, **kwargs)
        self._forget()
        if model is not None and model.params and self._api.is_train():
            with attempting():
                observer = self._recorder.observer()
                before = tensors_of(model.params)
                self._received = Received(before=before, number=model.current_round, observer=observer)
                observer.start()
        return model

    def send(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Record what is sent, and send it."""
        received = self._received
        self._forget()
        if received is not None and model.params:
            with attempting():
                part = "delta" if str(getattr(model.params_type, "value", model.params_type)) == "DIFF" else "client"
                self._recorder.record(
                    client=self._api.get_site_name(),
                    round=received.number,
                    before=received.before,
                    sent=tensors_of(model.params),
                    part=part,
                    facts=framework(),
                    observer=received.observer,
                )
        return self._api.send(model, *args, **kwargs)

    def _forget(self) -> None:
        if self._received is not None:
            self._received.observer.stop()
        self._received = None


def recorded(
    api: Any, folder: str | Path, *, keep_labels: bool = False, keep_pictures: bool = False, **declared: Any
) -> RecordedAPI:
    """Return NVFlare's client API so that what a training script sends is recorded, one file a round and client.

    It sees what the script sends, before any filter.

    Args:
        api: The module `nvflare.client`, as in ``flare = recorded(flare, "recordings")``.
        folder: The folder of the recorded updates.
        keep_labels: Also write the labels that training used, which an attacker is then granted.
        keep_pictures: Also write the pictures that training used, as `unveil audit --truth` reads them.
        declared: Facts that you declare, such as `normalisation={"mean": [0.5], "std": [0.5]}`; docs/format.md has all.

    Raises:
        UsageError: There is no such fact.
    """
    recorder = Recorder.into(folder, keep_labels=keep_labels, keep_pictures=keep_pictures, **declared)
    return RecordedAPI(api, recorder)
