"""An input filter of NVFlare that keeps the weights before local training for the output filters of the same task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from unveil.captures.nvflare.records import tensors_of
from unveil.captures.observing import Observer
from unveil.captures.recorder import attempting
from unveil.captures.recording import Arrays

KEPT = "unveil.kept"
"""A property of a task's context, which its input and output filters share and no other site or process sees."""

PACKAGE = "unveil"
"""Sites have it installed, so a job's export leaves its source out."""


class UnveilFilter(DXOFilter):  # type: ignore[misc]
    """A filter of weights and weight differences, whose source is not copied into jobs."""

    def __init__(self) -> None:
        kinds = [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF]
        super().__init__(supported_data_kinds=kinds, data_kinds_to_filter=kinds)

    def add_to_fed_job(self, job: Any, ctx: Any, **kwargs: Any) -> None:
        """Add the filter to a job, which names the class; see `Filter`."""
        job.set_app_packages(sorted({*job.job.app_packages, PACKAGE}))
        super().add_to_fed_job(job, ctx, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is known of a task before its output is filtered.

    Args:
        before: The weights before local training, by name.
        number: Number of the round; None if it is not known.
        observer: What observes the training; None if nothing does.
        keeps_pictures: Whether that keeps the pictures.
    """

    before: Arrays
    number: int | None
    observer: Observer | None
    keeps_pictures: bool


class KeepingFilter(UnveilFilter):
    """Keeps the weights that a task brings, and observes the training that follows.

    Args:
        observe: Observe the training by hooks of torch, if it runs in this process.
        keep_pictures: Keep the pictures that it uses.
    """

    def __init__(self, observe: bool = False, keep_pictures: bool = False) -> None:
        super().__init__()
        self.observe = observe
        self.keep_pictures = keep_pictures
        self._observer: Observer | None = None

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> None:
        """Keep the weights in the task's context; the message stays as it is."""
        if self._observer is not None:  # of a task that failed
            self._observer.stop()
        with attempting():
            earlier = kept_of(fl_ctx)
            keeps = self.keep_pictures or (earlier is not None and earlier.keeps_pictures)
            observer = None if earlier is None else earlier.observer
            if self.observe:
                if observer is not None:
                    observer.stop()
                # NVFlare runs a client's script in a thread of its own.
                self._observer = observer = Observer(keep_pictures=keeps, all_threads=True)
            number = shareable.get_header("current_round")
            kept = Kept(before=tensors_of(dxo.data), number=number, observer=observer, keeps_pictures=keeps)
            fl_ctx.set_prop(KEPT, kept, private=True, sticky=False)
            if self.observe and observer is not None:
                observer.start()


def kept_of(fl_ctx: FLContext) -> Kept | None:
    """Return what a `KeepingFilter` kept of this task; None without one."""
    found: Kept | None = fl_ctx.get_prop(KEPT)
    return found
