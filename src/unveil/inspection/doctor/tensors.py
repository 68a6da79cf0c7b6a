"""Missing, extra and reordered tensors: what was sent beside what the network has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unveil.captures.naming import NUMBERED
from unveil.core.files import quoted
from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.faults import Fault, Findings, Untold

MISSING, EXTRA, REORDERED = "missing tensors", "extra tensors", "reordered tensors"
SHOWN = 3
"""Names that a sentence shows."""


def names_and_shapes(examined: Examined) -> Findings:
    """Compare the names and shapes of the sent tensors with those of the network."""
    if examined.network is None:
        for name in (MISSING, EXTRA, REORDERED):
            yield Untold(name=name, reason="it needs the network; name it with --model")
        return
    own = {name: tuple(tensor.shape) for name, tensor in examined.own.items()}
    sent = {name: tuple(tensor.shape) for name, tensor in examined.changes.items()}
    if all(NUMBERED.fullmatch(name) for name in sent) and not set(sent) & set(own):
        yield from _numbered(examined, list(sent.values()))
        return
    parameters = [name for name, _ in examined.network.named_parameters()]
    missing = [name for name in parameters if name not in sent]
    extra = [name for name in sent if name not in own]
    if missing and len(missing) < len(parameters):
        yield Fault(
            name=MISSING,
            severity="error",
            evidence=f"{len(missing)} of the network's {len(parameters)} parameters were not sent: {shown(missing)}",
            fix="record the whole state_dict; if they are frozen, switch their requires_grad off in the factory",
        )
    elif missing:
        yield Fault(
            name=MISSING,
            severity="error",
            evidence=f"none of the {len(sent)} sent tensors has a name of the network, which has {shown(parameters)}",
            fix="name the client's own network with --model",
        )
    if extra:
        yield Fault(
            name=EXTRA,
            severity="error",
            evidence=f"{len(extra)} of the {len(sent)} sent tensors are none of the network's: {shown(extra)}",
            fix="leave them out of the recording, or name the client's own network with --model",
        )
    yield from _misplaced(sent, own)


def _numbered(examined: Examined, sent: Sequence[tuple[int, ...]]) -> Iterator[Fault]:
    """Numbered arrays that are as many as neither the `state_dict` nor the parameters."""
    assert examined.network is not None
    parameters, state = len(list(examined.network.parameters())), len(examined.network.state_dict())
    known = f"the network has {state} tensors, {parameters} of them parameters"
    whole = state if len(sent) > parameters else parameters
    if len(sent) < whole:
        yield Fault(
            name=MISSING,
            severity="error",
            evidence=f"{len(sent)} numbered arrays were sent, and {known}: {whole - len(sent)} are missing",
            fix="record every array of the state_dict, by name",
        )
    else:
        yield Fault(
            name=EXTRA,
            severity="error",
            evidence=f"{len(sent)} numbered arrays were sent, and {known}: {len(sent) - whole} are too many",
            fix="record the arrays of the state_dict alone, by name",
        )


def _misplaced(sent: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]) -> Iterator[Fault]:
    """Tensors of another shape than the network's of the same name: reordered if another order has all shapes."""
    shared = [name for name in sent if name in own]
    wrong = [name for name in shared if sent[name] != own[name]]
    if not wrong:
        return
    first = wrong[0]
    differ = f"{len(wrong)} of {len(shared)} tensors have another shape than the network's of the same name"
    example = f"{quoted(first, 60)} has {list(sent[first])}, the network's {list(own[first])}"
    shapes = [sent[name] for name in shared]
    if sorted(shapes) != sorted(own[name] for name in shared):
        yield Fault(
            name=EXTRA,
            severity="error",
            evidence=f"{differ}, and no other order has all shapes: {example}",
            fix="name the client's own network with --model, with its own arguments",
        )
        return
    for words, order in _orders(shared).items():
        if [own[name] for name in order] == shapes:
            yield Fault(
                name=REORDERED,
                severity="error",
                evidence=f"{differ}: {example}; {words} has all {len(shared)} shapes",
                fix=f"record the arrays by name: they were sent in {words}, {shown(order)}",
            )
            return
    yield Fault(
        name=REORDERED,
        severity="error",
        evidence=f"{differ}: {example}; the same shapes occur in another order",
        fix="record the arrays by name, such as model.state_dict()",
    )


def _orders(names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Orders in which systems send a network's arrays, in words."""
    return {
        "the alphabetical order of the names": sorted(names),
        "the reversed order of the network": list(reversed(names)),
        "the order of the names' last parts": sorted(names, key=lambda name: name.rpartition(".")[2]),
    }


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    some = ", ".join(quoted(name, 60) for name in names[:SHOWN])
    return some if len(names) <= SHOWN else f"{some} and {len(names) - SHOWN} more"
