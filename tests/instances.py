"""Components of every kind, as SPECs, for the laws that are about all of them, and which of them `make fast` tries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def spec_kind(spec: str) -> str:
    """The component that a SPEC names; all pipelines are one kind."""
    return "pipeline" if "+" in spec else spec.partition(":")[0]


def first_of_each(values: Iterable[Any], kind: Callable[[Any], object] = lambda _: None) -> list[Any]:
    """Parameters of a test, of which `make fast` takes the first of each kind and the whole suite all.

    Args:
        values: The parameters; a tuple holds several arguments.
        kind: Gives the kind of a value; by default all are of one.
    """
    seen: set[object] = set()
    marked = []
    for value in values:
        marks = [pytest.mark.slow] if kind(value) in seen else []
        seen.add(kind(value))
        marked.append(pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=marks))
    return marked


PLAIN = (
    "none",
    "qsgd:levels=16,norm=max",
    "uniform:bits=4",
    "sign:scale=true",
    "ternary",
    "fp16",
    "bf16",
    "blockwise8",
    "nf4",
    "fp4",
    "topk:density=0.2",
    "percentile:percent=80",
    "randomk:density=0.5,unbiased=true",
    "soteria:pruning_rate=0.4",
    "layers:send=no-head",
    "powersgd:rank=2",
    "gaussian:relative=1",
    "laplace:relative=0.1",
    "clip:norm=0.1",
    "clamp:limit=0.005",
    "dpsgd:clip=0.1,noise=0.003",
    "svt:fraction=0.2,epsilon=10,noise_var=1,gamma=0.01",
)

OBFUSCATIONS = (
    "none",
    "qsgd:levels=16,norm=max",
    "qsgd:levels=2,norm=max",
    "qsgd:levels=64",
    "qsgd:levels=16,norm=max,bucket=100",
    "qsgd:levels=4,bucket=64,scope=update",
    "qsgd:levels=16,norm=max,scope=update",
    "uniform:bits=8",
    "uniform:bits=4,range=minmax",
    "uniform:bits=4,scope=update",
    "sign",
    "sign:scale=true",
    "ternary",
    "ternary:clip=none",
    "fp16",
    "bf16",
    "blockwise8",
    "blockwise8:block=100",
    "nf4",
    "fp4",
    "topk:density=0.05",
    "topk:density=0.1,scope=update",
    "percentile:percent=90",
    "percentile:percent=0",
    "randomk:density=0.1",
    "randomk:density=0.1,unbiased=true",
    "randomk:density=0.1,scope=update",
    "soteria:pruning_rate=0.5",
    "layers:send=all",
    "layers:send=head",
    "layers:send=no-head",
    "layers:send=bias",
    "powersgd:rank=2",
    "gaussian:relative=1",
    "gaussian:sigma=0.01",
    "gaussian:snr_db=20",
    "laplace:relative=1",
    "laplace:sigma=0.01",
    "laplace:snr_db=10",
    "clip:norm=0.1",
    "clip:norm=1000",
    "clamp:limit=0.002",
    "clamp:limit=10",
    "dpsgd:clip=0.5,noise=0.01",
    "svt:fraction=0.5,noise_var=2,gamma=0.01",
    "svt:fraction=0.3,epsilon=1000,noise_var=10,gamma=0.02,tau=0.01,replace=false",
    "percentile:percent=80+clamp:limit=0.01",
    "percentile:percent=80+fp16",
    "clamp:limit=0.005+fp16",
    "svt:fraction=0.5,noise_var=2,gamma=0.01+fp16",
    "topk:density=0.2+qsgd:levels=16,norm=max",
    "clip:norm=0.1+gaussian:sigma=0.001",
    "topk:density=0.2+fp16",
    "qsgd:levels=16,norm=max+topk:density=0.2",
    "randomk:density=0.5+sign",
    "topk:density=0.2+nf4",
    "powersgd:rank=2+nf4",
    "powersgd:rank=2+qsgd:levels=16",
    "powersgd:rank=2+fp16",
    "topk:density=0.2+powersgd:rank=2",
    "randomk:density=0.2,unbiased=true+qsgd:levels=16,norm=max",
    "soteria:pruning_rate=0.5+qsgd:levels=16,norm=max",
    "soteria:pruning_rate=0.5+topk:density=0.2",
    "layers:send=no-head+qsgd:levels=16,norm=max",
    "layers:send=head+clip:norm=0.1",
    "layers:send=no-bias+topk:density=0.2,scope=update",
    "layers:send=no-head+powersgd:rank=2+fp16",
    "layers:send=no-head+randomk:density=0.5,unbiased=true+sign",
)

ATTACKS = (
    "unveil:steps=4",
    "unveil+:steps=4",
    "rog:steps=3",
    "inverting_gradients:steps=3",
    "dlg:steps=2",
    "idlg:steps=2",
)

ENHANCERS = ("faithful", "sharp", "semantic", "semantic-tinyimagenet", "semantic-cifar10")

METRICS = ("psnr", "ssim", "ssim_global", "correlation")

TRAININGS = (
    "fedsgd",
    "fedsgd:mode=train",
    "fedsgd:clip=1,noise=0.5",
    "fedsgd:clip=1,expected=8",
    "fedavg:steps=2,lr=0.01",
    "fedavg:epochs=2,batch_size=2,lr=0.01,momentum=0.9,shuffle=0",
    "fedavg:steps=2,lr=0.01,momentum=0.9,nesterov=true,label_smoothing=0.1,reduction=sum",
    "fedsgd:loss=bce",
    "fedavg:epochs=2,batch_size=3,drop_last=true,lr=0.01,momentum=0.9,dampening=0.1",
)
