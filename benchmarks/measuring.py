"""One attack on one client: what came back, how long it took, and what enhancers make of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unveil import attacks, obfuscations
from unveil.audits.pipeline import Outcome, play
from unveil.audits.scoring import MetricSelection
from unveil.audits.threat_model import ThreatModel
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.core.metric import Metric
from unveil.core.pixels import eight_bit
from unveil.core.reconstruction import Reconstruction
from unveil.core.watch import Progress
from unveil.enhancers import parse as parse_enhancer
from unveil.enhancers.consistency import enhance, refuse_seen
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr
from unveil.report.statistics import rank_correlation

MEASURED = ("ssim", "ssim_global", "lpips")
THRESHOLDS = (18, 20, 22, 24, 25, 26, 28)  # dB, whose first time is noted


def published_client(folder: Path, *, model: str = "lenet", training_spec: str = "fedsgd", seed: int = 0) -> Client:
    """The published batch as a client; the model's weights are drawn from the seed."""
    facts = json.loads((folder / "anchor.json").read_text())
    paths = [folder / "original" / f"{i}.png" for i in range(len(facts["labels"]))]
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255).contiguous()
    shape = (images.shape[1], images.shape[2], images.shape[3])
    return Client(
        build_model(model, image_shape=shape, classes=facts["classes"], seed=seed),
        images,
        torch.tensor(facts["labels"]),
        training=training.parse(training_spec),
        classes=facts["classes"],
        name="published",
        model_name=model,
        source="the published batch",
    )


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch compute on this number of threads inside the `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class FirstTimes:
    """A watch that notes when the mean PSNR first reaches each threshold; its own time is left out."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.noted: dict[str, float | None] = {str(threshold): None for threshold in THRESHOLDS}
        self.started, self.watched = time.perf_counter(), 0.0

    def __call__(self, progress: Progress) -> None:
        """Note the thresholds that are reached by now."""
        now = time.perf_counter()
        # In batch order: the labels are known and distinct.
        reached = float(psnr(self.client.images, eight_bit(progress.images())).mean())
        for threshold in THRESHOLDS:
            if reached >= threshold and self.noted[str(threshold)] is None:
                self.noted[str(threshold)] = now - self.started - self.watched
        self.watched += time.perf_counter() - now

    def within(self, outcome: Outcome) -> dict[str, float | None]:
        """Seconds from the start of the attack, which `play` began after the client's training."""
        before = time.perf_counter() - self.started - self.watched - outcome.seconds
        return {name: None if at is None else round(at - before, 2) for name, at in self.noted.items()}


def measured(
    client: Client,
    *,
    attack: str,
    obfuscation: str,
    threat_model: str = "everything known",
    enhancers: Sequence[str] = ("none",),
    seed: int = 0,
    lpips_weights: Path | None = None,
) -> list[dict[str, Any]]:
    """One run of one attack, its result given to every enhancer; a plain JSON object each.

    Seeds are those of an audit with this seed. Scoring time is not counted in any figure.
    """
    metrics = MetricSelection(lpips_weights=None if lpips_weights is None else str(lpips_weights))(client)
    granted = ThreatModel.parse(threat_model)
    in_order = "labels" not in granted.unknown and len(client.labels.unique()) == len(client.labels)
    watch = FirstTimes(client) if in_order else None
    outcome = play(
        client, obfuscations.parse(obfuscation), attacks.parse(attack), threat_model=granted, seed=seed, watch=watch
    )
    seconds_to = watch.within(outcome) if watch else dict.fromkeys(map(str, THRESHOLDS))
    results = []
    for name in enhancers:
        enhancer, guess = parse_enhancer(name), outcome.attack
        enhancement: dict[str, Any] = {}
        started = time.perf_counter()
        if enhancer is not None:
            refuse_seen(enhancer, client.images)
            guess, what = enhance(
                enhancer,
                guess,
                model=client.model,
                update=outcome.received,
                knowledge=outcome.knowledge,
                class_names=client.class_names,
            )
            enhancement = {"misfit": [what.misfit_before, what.misfit_after], "share": what.share}
        seconds = outcome.seconds + time.perf_counter() - started
        iterations = len(outcome.attack.losses)
        results.append(
            {
                "attack": attack,
                "obfuscation": obfuscation,
                "training": str(client.training),
                "model": client.model_name,
                "batch": len(client.images),
                "threat_model": str(granted),
                "enhancer": name,
                "seed": seed,
                **scores_of(client, guess, metrics),
                **enhancement,
                "seconds": round(seconds, 2),
                "iterations": iterations,
                "seconds_per_iteration": round(outcome.seconds / max(iterations, 1), 4),
                "peak_mib": None if outcome.peak_mib is None else round(outcome.peak_mib),
                "seconds_to": seconds_to,
                "stop": outcome.attack.stop.value,
                "notes": list(outcome.attack.notes),
                "threads": torch.get_num_threads(),
            }
        )
    return results


def scores_of(client: Client, guess: Reconstruction, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """What the pictures score in batch order, as they would be saved."""
    aligned = align(client.images, guess)
    images = eight_bit(aligned.images)
    scores = psnr(client.images, images)
    more = {
        name: round(float(metrics[name].score(client.images, images).mean()), 4) if name in metrics else None
        for name in MEASURED
    }
    blind = psnr(client.images, torch.full_like(images, 0.5))
    sure = None if aligned.confidence is None else rank_correlation(aligned.confidence.tolist(), scores.tolist())
    return {
        "psnr": round(float(scores.mean()), 3),
        "psnr_min": round(float(scores.min()), 3),
        "each": [round(value, 3) for value in scores.tolist()],
        "psnr_blind": round(float(blind.mean()), 3),
        "confidence_rank": None if sure is None else round(sure, 3),
        **more,
    }
