"""Trials and results folders as audits would write them, without running one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unveil.audits.results import append, prepare
from unveil.core.reconstruction import Stop
from unveil.core.records import ATTACK, ENHANCED, Enhancement, Plausibility, ScoredOutcome, Trial

LEAK = {"psnr": [25.0, 26.0, 27.0, 28.0, 25.5, 26.5, 27.5, 24.5], "ssim": [0.8] * 8}
NOTHING = {"psnr": [11.2] * 8, "ssim": [0.1] * 8}
BLIND = {"psnr": 11.0, "ssim": 0.2, "correlation": 0.0, "lpips": 0.9, "reid_top1": 0.0}
KNOWN = "everything known"

Scores = Mapping[str, Sequence[float]]


def made(
    obfuscation: str = "topk:density=0.05",
    scores: Scores = LEAK,
    *,
    client: str = "hospital",
    attack: str = "rog",
    threat_model: str = KNOWN,
    seed: int = 0,
    enhanced: Scores | None = None,
    plausibility: Plausibility | None = None,
    blind: Mapping[str, float] = BLIND,
    **changes: Any,
) -> Trial:
    """A trial of eight pictures, or as many as the scores have."""
    count = len(next(iter(scores.values()), [0.0] * 8))
    enhancement = Enhancement(misfit_before=1.0, misfit_after=1.0, share=1.0)
    outcomes = {
        ATTACK: ScoredOutcome(
            scores={name: list(values) for name, values in scores.items()},
            labels=list(range(count)),
            plausibility=plausibility,
        )
    }
    if enhanced is not None:
        values = {name: list(found) for name, found in enhanced.items()}
        outcomes[ENHANCED] = ScoredOutcome(scores=values, labels=list(range(count)), enhancement=enhancement)
    fields: dict[str, Any] = {
        "family": "none" if obfuscation == "none" else "sparsify",
        "wire_bits": 1_000_000,
        "raw_bits": 8_000_000,
        "iterations": 4,
        "peak_mib": None,
        "stop": Stop.FINISHED,
        "losses": [2.0, 1.0],
        "versions": {"unveil": "0.1.0", "torch": "2.6"},
        **changes,
    }
    return Trial(
        settings={
            "client": client,
            "model": "lenet",
            "images": "pictures",
            "batch": f"{count} x 3 x 8 x 8",
            "training": "fedsgd",
            "obfuscation": obfuscation,
            "attack": attack,
            "threat_model": threat_model,
            **({} if enhanced is None else {"enhancer": "faithful"}),
        },
        seed=seed,
        blind={name: [value] * count for name, value in blind.items() if name in scores},
        outcomes=outcomes,
        **fields,
    )


def beside_baseline(*trials: Trial, baseline: Scores = LEAK) -> list[Trial]:
    """The trials, and for each client, attack, attacker and seed the same attack on the bare update."""
    kinds = {(t.settings["client"], t.settings["attack"], t.settings["threat_model"], t.seed) for t in trials}
    bare = [
        made("none", baseline, client=client, attack=attack, threat_model=threat_model, seed=seed)
        for client, attack, threat_model, seed in sorted(kinds)
    ]
    return [*bare, *trials]


def client_table(name: str = "hospital", **changes: Any) -> dict[str, Any]:
    """What `audit.json` says of a client."""
    table = {"name": name, "model": "lenet", "images": "pictures", "batch": "8 x 3 x 8 x 8", "classes": 10}
    return {**table, "training": "fedsgd", "pictures": f"digest of {name}", "weights": "0123456789ab", **changes}


def settings_of(trials: Sequence[Trial], **changes: Any) -> dict[str, Any]:
    """What `audit.json` says of an audit whose trials these are."""

    def listed(key: str) -> list[str]:
        return list(dict.fromkeys(trial.settings[key] for trial in trials))

    return {
        "clients": [client_table(name) for name in listed("client")],
        "obfuscations": listed("obfuscation"),
        "attacks": listed("attack"),
        "threat_models": listed("threat_model"),
        "seeds": list(dict.fromkeys(trial.seed for trial in trials)),
        "metrics": {},
        "controls": [],
        **changes,
    }


def write_folder(folder: Path, trials: Sequence[Trial], settings: Mapping[str, Any] | None = None) -> Path:
    """Write a results folder and return it."""
    prepare(folder, settings_of(trials) if settings is None else settings)
    for trial in trials:
        append(folder, trial)
    return folder
