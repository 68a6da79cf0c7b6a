"""Frozen layers: all parameters of a layer stayed as they were, while others changed."""

from __future__ import annotations

from collections import defaultdict

import torch

from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.faults import Fault, Findings, Untold
from unveil.inspection.doctor.tensors import shown

FROZEN = "frozen layers"
MANY = 64
"""A layer with fewer entries may be zero behind an obfuscation that sends few of them."""
SPARING = frozenset({"topk", "randomk", "qsgd", "ternary", "uniform", "fp16", "bf16", "powersgd", "nf4", "fp4"})
"""Obfuscations behind which small entries arrive as zero."""


def frozen_layers(examined: Examined) -> Findings:
    """Look for layers whose parameters all have a change of exactly zero.

    A bias alone does not count: in front of BatchNorm in train mode its gradient is zero.
    """
    layers: dict[str, list[str]] = defaultdict(list)
    for name in examined.sent:
        layers[name.rpartition(".")[0]].append(name)
    still = [layer for layer, names in layers.items() if not any(bool(examined.sent[name].any()) for name in names)]
    if len(still) == len(layers):
        if layers:
            yield Fault(
                name=FROZEN,
                severity="error",
                evidence=f"all {len(examined.sent)} parameters have a change of exactly zero",
                fix="record the weights after local training, not before it",
            )
        return
    is_sparing = bool(SPARING & set(examined.stages))
    if is_sparing and any(_size(examined, layers[layer]) < MANY for layer in still):
        yield Untold(name=FROZEN, reason="behind this obfuscation a small layer may arrive as zeros")
        still = [layer for layer in still if _size(examined, layers[layer]) >= MANY]
    if is_sparing and _may_skip_tensors(examined):
        if still:
            yield Untold(name=FROZEN, reason="entries were chosen over the whole update, which may leave out a layer")
        return
    if still:
        names = [name for layer in still for name in layers[layer]]
        yield Fault(
            name=FROZEN,
            severity="warning",
            evidence=f"{len(still)} of {len(layers)} layers have a change of exactly zero: {shown(names)}",
            fix="leave them out of the recording, or switch their requires_grad off in the factory; an attack "
            "would take zeros for their gradient",
            instead=("the network does not use them",),
        )


def _size(examined: Examined, names: list[str]) -> int:
    return max(examined.sent[name].numel() for name in names)


def _may_skip_tensors(examined: Examined) -> bool:
    """Whether the obfuscation chooses entries of the whole update, or by chance, or rounds small ones to zero."""
    spec = examined.facts.obfuscation.value or examined.obfuscation
    half = {"fp16", "bf16"} & set(examined.stages)
    smallest = min((float(t.abs().max()) for t in examined.sent.values() if bool(t.any())), default=0.0)
    return "scope=update" in spec or "randomk" in spec or bool(half and smallest < float(torch.finfo(torch.half).tiny))
