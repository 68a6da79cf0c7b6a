"""An output filter of NVFlare that records what leaves a client, as it is at the filter's place among the filters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.task_utils import get_filters
from torch import Tensor

from unveil.captures.facts import Fact
from unveil.captures.nvflare.keeping import KeepingFilter, UnveilFilter, kept_of
from unveil.captures.nvflare.obfuscation import ObfuscationFilter
from unveil.captures.nvflare.recognition import spec_of_filter
from unveil.captures.nvflare.records import framework, tensors_of
from unveil.captures.observed_facts import observed_fact
from unveil.captures.recorder import LOG, Recorder, attempting
from unveil.captures.recording import Arrays
from unveil.core.errors import UsageError

TRAIN = ("train",)
"""The tasks that train a model, as NVFlare's recipes name them."""


class RecordingFilter(UnveilFilter):
    """Records what leaves a client, one file for each round and client; see `record`.

    Args:
        folder: The folder of the recorded updates, on the client's machine.
        keep_labels: Also write the labels that training used.
        keep_pictures: Also write the pictures that training used.
        declared: Facts that you declare, by name; docs/format.md has all.

    Raises:
        UsageError: There is no such fact.
    """

    def __init__(
        self,
        folder: str,
        keep_labels: bool = False,
        keep_pictures: bool = False,
        declared: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.folder = str(Path(folder).absolute())  # simulators work elsewhere
        self.keep_labels = keep_labels
        self.keep_pictures = keep_pictures
        self.declared = declared
        self._recorder = Recorder.into(
            self.folder, keep_labels=keep_labels, keep_pictures=keep_pictures, **(declared or {})
        )

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> None:
        """Record the message, and leave it as it is."""
        kept = kept_of(fl_ctx)
        if kept is not None and kept.observer is not None:
            kept.observer.stop()
        with attempting():
            if kept is None:
                raise UsageError("the weights before are not known; add a KeepingFilter to the client's input filters")
            self._recorder.record(
                client=fl_ctx.get_identity_name(),
                round=kept.number,
                before=kept.before,
                sent=self._decoded(dxo, shareable, fl_ctx, kept.before),
                part="delta" if dxo.data_kind == DataKind.WEIGHT_DIFF else "client",
                facts={**framework(), **facts_of_filters(self._filters_before(fl_ctx), dxo)},
                observer=kept.observer,
            )

    def _decoded(
        self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext, before: Arrays
    ) -> dict[str, Shaped[Tensor, " ..."]]:
        """Return the arrays as the server decodes them, if NVFlare's quantiser coded them."""
        if not dxo.get_meta_prop("quantized_flag"):
            return tensors_of(dxo.data)
        from nvflare.app_opt.pt.quantization.dequantizer import ModelDequantizer

        copy = DXO(dxo.data_kind, dict(dxo.data), dict(dxo.meta))
        arrays = tensors_of(ModelDequantizer().process_dxo(copy, shareable, fl_ctx).data)
        # Four bits of a vector come back as a matrix of one row.
        return {n: t.reshape(before[n].shape) if n in before else t for n, t in arrays.items()}

    def _filters_before(self, fl_ctx: FLContext) -> list[Any]:
        """Return the filters that an update passes before this one; none if NVFlare does not say them."""
        runner, task = fl_ctx.get_prop(FLContextKey.RUNNER), fl_ctx.get_prop(FLContextKey.TASK_NAME)
        if runner is None:
            return []
        found = get_filters("task_result_filters", fl_ctx, runner.task_result_filters, task, FilterKey.OUT)
        return [
            one for one in takewhile(lambda other: other is not self, found) if not isinstance(one, RecordingFilter)
        ]


def facts_of_filters(filters: Sequence[Any], dxo: DXO) -> dict[str, Fact[Any]]:
    """Return what the filters that an update passed did to its parameters and buffers; nothing if that is not known.

    Args:
        filters: The filters in the order of their work.
        dxo: What came out of them.
    """
    steps = int(dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 1))
    entries = sum(int(np.size(array)) for array in dxo.data.values())
    stages, facts = [], dict[str, Fact[Any]]()
    for one in filters:
        if isinstance(one, ObfuscationFilter):
            stages.append(one.spec)
            if one.buffers != "sent":
                facts["buffers"] = observed_fact("buffers", one.buffers)
            continue
        try:
            stages.append(spec_of_filter(type(one).__name__, vars(one), steps=steps, entries=entries))
            if stages[-1] != "none" and dxo.data_kind != DataKind.WEIGHT_DIFF:
                raise UsageError(f"{type(one).__name__} worked on weights, and not on their difference")
        except UsageError as error:
            LOG.warning("unveil leaves the obfuscation unknown: %s", error)
            return facts
    return {**facts, "obfuscation": observed_fact("obfuscation", "+".join(s for s in stages if s != "none") or None)}


def record(
    recipe: Any,
    folder: str | Path,
    *,
    keep_labels: bool = False,
    keep_pictures: bool = False,
    tasks: tuple[str, ...] = TRAIN,
    **declared: Any,
) -> None:
    """Add filters to the clients of a recipe that record what leaves them, one file for each round and client.

    What is recorded is what the filters added before made of the update. unveil has to be installed at every client.

    Args:
        recipe: A recipe of NVFlare, such as `FedAvgRecipe`.
        folder: The folder of the recorded updates, on each client's machine.
        keep_labels: Also write the labels that training used, which an attacker is then granted.
        keep_pictures: Also write the pictures that training used, as `unveil audit --truth` reads them.
        tasks: Names of the tasks that train.
        declared: Facts that you declare, such as `normalisation={"mean": [0.5], "std": [0.5]}`; docs/format.md has all.

    Raises:
        UsageError: There is no such fact.
    """
    recording = RecordingFilter(str(folder), keep_labels, keep_pictures, declared or None)
    recipe.add_client_input_filter(KeepingFilter(observe=True, keep_pictures=keep_pictures), tasks=list(tasks))
    recipe.add_client_output_filter(recording, tasks=list(tasks))
