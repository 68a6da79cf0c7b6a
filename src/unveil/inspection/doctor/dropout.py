"""Dropout: masks that nobody recorded, or that the manifest's eval mode would not have."""

from __future__ import annotations

from statistics import mean, stdev

from torch import nn

from unveil.inspection.doctor.evidence import Evidence
from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.faults import Fault, Findings, Untold

DROPOUT = "dropout"
KINDS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
LEAST = 16
"""Fewest features whose zeros are counted."""
SIGMAS = 4.0
"""Standard deviations by which more features must be empty than in rehearsals without dropout."""


def dropout(evidence: Evidence) -> Findings:
    """Look for layers of dropout that ran, and for features that they left out for the whole batch."""
    examined = evidence.examined
    if examined.network is None:
        yield Untold(name=DROPOUT, reason="it needs the network; name it with --model")
        return
    layers = _layers(examined.network)
    if not layers:
        return
    shown = ", ".join(f"{name} (p = {p:g})" for name, p in list(layers.items())[:3])
    if examined.mode == "train":
        yield Fault(
            name=DROPOUT,
            severity="note",
            evidence=f"train mode, and the network has {len(layers)} layers of dropout: {shown}",
            fix="its masks were not recorded, so an attack takes their mean; train without it to audit the worst case",
        )
        return
    yield from _hidden(evidence, shown, max(layers.values()))


def has_dropout(examined: Examined) -> bool:
    """Whether the network has dropout."""
    return examined.network is not None and bool(_layers(examined.network))


def _layers(network: nn.Module) -> dict[str, float]:
    """Name of each layer of dropout -> its chance to leave a feature out."""
    return {name: float(m.p) for name, m in network.named_modules() if isinstance(m, KINDS) and m.p > 0}


def _hidden(evidence: Evidence, shown: str, p: float) -> Findings:
    """Features that are empty in the update of a Linear layer, and hardly ever in rehearsals in eval mode."""
    examined, steps = evidence.examined, evidence.examined.steps
    if evidence.cannot_rehearse or not examined.is_exact or steps != 1 or not evidence.in_eval:
        reason = evidence.cannot_rehearse or "it needs the update of one step that nothing but half precision changed"
        yield Untold(name=DROPOUT, reason=reason)
        return
    n = examined.batch_size or 1
    could_tell = False
    for name, change in examined.sent.items():
        if change.dim() != 2 or change.shape[1] < LEAST or name not in evidence.in_eval[0] or not change.any():
            continue
        features = change.shape[1]
        empty = int((~change.any(0)).sum())
        usual = [int((~one[name].any(0)).sum()) for one in evidence.in_eval]
        most = mean(usual)
        spread = max((most * (1 - most / features)) ** 0.5, stdev(usual), 1.0)
        could_tell |= features * p**n > SIGMAS * spread
        if empty > most + SIGMAS * spread:
            yield Fault(
                name=DROPOUT,
                severity="error",
                evidence=f"the manifest says eval mode, and {empty} of {features} features in front of {name!r} are "
                f"empty for all {n} pictures, {most:.0f} without dropout; the network has {shown}",
                fix="say train mode; dropout's masks are not known to an attack, which takes their mean",
                fact="mode=train",
            )
            return
    if not could_tell:
        yield Untold(name=DROPOUT, reason=f"with {n} pictures hardly a feature is left out for all of them")
