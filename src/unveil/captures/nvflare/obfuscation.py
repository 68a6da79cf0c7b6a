"""An output filter of NVFlare that obfuscates what a client sends, with any of unveil's obfuscations."""

from __future__ import annotations

from typing import Any, cast

import torch
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from unveil import obfuscations
from unveil.captures.nvflare.keeping import KeepingFilter, UnveilFilter, kept_of
from unveil.captures.nvflare.records import arrays_like, tensors_of
from unveil.captures.obfuscating import check_settings, generator_for, obfuscated_weights
from unveil.core.errors import UsageError
from unveil.core.protocols import BufferSetting


class ObfuscationFilter(UnveilFilter):
    """Obfuscates weight differences, and weights: those before local training plus the obfuscated difference.

    If anything goes wrong, the client's task fails: what was not obfuscated is never sent instead.

    Args:
        spec: The obfuscation's SPEC, such as `topk:density=0.05+qsgd:levels=16`.
        seed: Seed of its randomness, from which each client and round has its own; None for the system's entropy,
            which is what a federation should use.
        buffers: What becomes of buffers such as BatchNorm's running statistics: `sent` as they are after local
            training, `obfuscated` as an update of their own, or `kept`: the values before it are sent again. Counters
            are never obfuscated.

    Raises:
        UsageError: There is no such obfuscation or setting, or it needs the client's network and pictures.
    """

    def __init__(self, spec: str, seed: int | None = None, buffers: str = "sent") -> None:
        super().__init__()
        self.spec = spec
        self.seed = seed
        self.buffers = buffers
        self._obfuscation = obfuscations.parse(spec)
        check_settings("ObfuscationFilter", self._obfuscation, seed=seed, buffers=buffers)

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO:
        """Return the message with an obfuscated update."""
        kept, after = kept_of(fl_ctx), tensors_of(dxo.data)
        if dxo.data_kind == DataKind.WEIGHT_DIFF:
            before = {name: torch.zeros_like(tensor) for name, tensor in after.items()}
        elif kept is None:
            raise UsageError(
                "ObfuscationFilter: the client sends weights, and those before are not known; add a KeepingFilter to "
                "its input filters, or let it send differences"
            )
        else:
            before = {name: tensor for name, tensor in kept.before.items() if name in after}
        generator = generator_for(self.seed, fl_ctx.get_identity_name(), None if kept is None else kept.number)
        sent = obfuscated_weights(
            before, after, self._obfuscation, buffers=cast(BufferSetting, self.buffers), generator=generator
        )
        dxo.data = arrays_like(sent, dxo.data)
        return dxo


def obfuscate(
    recipe: Any, spec: str, *, seed: int | None = None, buffers: str = "sent", tasks: tuple[str, ...] = ("train",)
) -> None:
    """Add filters to the clients of a recipe that obfuscate what they send; see `ObfuscationFilter`.

    unveil has to be installed at every client.

    Args:
        recipe: A recipe of NVFlare, such as `FedAvgRecipe`.
        spec: The obfuscation's SPEC.
        seed: Seed of its randomness; None for the system's entropy.
        buffers: What becomes of buffers: `sent`, `obfuscated` or `kept`.
        tasks: Names of the tasks that train.

    Raises:
        UsageError: There is no such obfuscation or setting, or it needs the client's network and pictures.
    """
    obfuscating = ObfuscationFilter(spec, seed, buffers)
    recipe.add_client_input_filter(KeepingFilter(), tasks=list(tasks))
    recipe.add_client_output_filter(obfuscating, tasks=list(tasks))
