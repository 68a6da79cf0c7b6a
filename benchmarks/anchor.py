"""Attack the published batch once and print what came back as one JSON object.

    python benchmarks/anchor.py --anchor DIR --attack rog --obfuscation qsgd:levels=16,norm=max --json

DIR holds anchor.json (labels, classes) and original/N.png. Scoring time is not counted in any figure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator

from data import read, tensor
from unveil import attacks, obfuscations
from unveil.audits.profiling import Profiler
from unveil.audits.scoring import MetricSelection
from unveil.audits.threat_model import ThreatModel
from unveil.clients import training
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.models import build_model
from unveil.core.errors import UsageError
from unveil.core.types import Images, Metric, Progress, Reconstruction, Update, Watch
from unveil.enhancers import parse as parse_enhancer
from unveil.enhancers.consistency import enhance, refuse_seen
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr
from unveil.report.statistics import rank_correlation

DECOYS = 200
MEASURED = ("ssim", "ssim_global", "lpips", "semantic_jaccard", "same_top1", "feature_similarity", "true_class")
MEASURED += ("reid_top1", "reid_top5", "reid_rank")
THRESHOLDS = (18, 20, 22, 24, 25, 26, 28)  # dB, whose first time is noted


def anchor_scene(folder: Path, *, model: str, batch: int, training_spec: str, seed: int) -> Client:
    """The published batch as a client; the model's weights are drawn from the seed."""
    facts = json.loads((folder / "anchor.json").read_text())
    if not 1 <= batch <= len(facts["labels"]):
        raise UsageError(f"--batch: expected 1 to {len(facts['labels'])}, got {batch}")
    pictures = [np.asarray(Image.open(folder / "original" / f"{i}.png").convert("RGB")) for i in range(batch)]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255).contiguous()
    classes = facts["classes"]
    shape = (images.shape[1], images.shape[2], images.shape[3])
    return Client(
        name="anchor",
        model_name=model,
        model=build_model(model, image_shape=shape, classes=classes, seed=seed),
        images=images,
        labels=torch.tensor(facts["labels"][:batch]),
        classes=classes,
        training=training.parse(training_spec),
        source="anchor",
    )


def eight_bit(images: Images) -> Images:
    """The pictures as they would be saved."""
    return images.clamp(0, 1).mul(255).round().div(255)


def with_decoys(client: Client, data: Path) -> Client:
    """The client with 200 ImageNet training pictures beside it; the published batch is of validation pictures."""
    pictures, _, names, _ = read(data, "imagenet700_256.npz", limit=DECOYS)
    images = tensor(pictures, client.batch.images.shape[-1])
    class_names = tuple(name.partition(" ")[2] for name in names)  # without WordNet's number
    return replace(client, class_names=class_names, evaluation=EvaluationSet(decoys=images))


def first_times(client: Client, seconds_to: dict[str, float | None]) -> Watch:
    """A watch that notes when the mean PSNR first reaches each threshold, its own time left out."""
    started, watched = time.perf_counter(), 0.0

    def watch(progress: Progress) -> None:
        nonlocal watched
        now = time.perf_counter()
        mse = (eight_bit(progress.images()) - client.batch.images).square().flatten(1).mean(1)
        reached = float((-10 * mse.log10()).mean())  # batch order: the labels are known and distinct
        for threshold in THRESHOLDS:
            if reached >= threshold and seconds_to[str(threshold)] is None:
                seconds_to[str(threshold)] = round(now - started - watched, 2)
        watched += time.perf_counter() - now

    return watch


def run(
    folder: Path,
    *,
    attack: str,
    obfuscation: str,
    training_spec: str = "fedsgd",
    model: str = "lenet",
    batch: int = 16,
    knowledge: str = "everything known",
    enhancer: str = "none",
    seed: int = 0,
    save: Path | None = None,
    lpips_weights: Path | None = None,
    data: Path | None = None,
) -> dict[str, Any]:
    """One run of one attack on the anchor; see the module's docstring."""
    client = anchor_scene(folder, model=model, batch=batch, training_spec=training_spec, seed=seed)
    if data is not None:
        client = with_decoys(client, data)
    return measure(
        client,
        attack=attack,
        obfuscation=obfuscation,
        knowledge=knowledge,
        enhancer=enhancer,
        seed=seed,
        save=save,
        lpips_weights=lpips_weights,
    )


def measure(client: Client, *, enhancer: str = "none", **settings: Any) -> dict[str, Any]:
    """One run of one attack on a client, as plain JSON; settings as in `measured`."""
    (result,) = measured(client, enhancers=(enhancer,), **settings)
    return result


def measured(
    client: Client,
    *,
    attack: str,
    obfuscation: str,
    enhancers: Sequence[str] = ("none",),
    knowledge: str = "everything known",
    seed: int = 0,
    save: Path | None = None,
    lpips_weights: Path | None = None,
) -> list[dict[str, Any]]:
    """One run of one attack on a client and what each enhancer makes of it, as plain JSON.

    Where the client has decoys, the reconstructions are also scored with LPIPS and with
    EfficientNet-Lite0. Each result's seconds are those of the attack and of its own enhancer.
    """
    decoys = client.evaluation.decoys
    gallery = 0 if decoys is None else len(decoys)
    measures = MetricSelection(
        lpips_weights=None if lpips_weights is None else str(lpips_weights),
        classifier="efficientnet_lite0" if gallery else None,
        decoys=gallery,
        distance="pixels" if lpips_weights is None else "lpips",
    )(client)
    channel, threat_model = obfuscations.parse(obfuscation), attacks.parse(attack)
    granted = ThreatModel.parse(knowledge)
    sent = Update(client.training(client.model, client.batch, generator=Generator().manual_seed(seed)))
    received = channel(sent, generator=Generator().manual_seed(seed + 1))
    del sent

    # With labels that are known and distinct the pictures are in the batch's order all the time.
    in_order = "labels" not in granted.unknown and len(client.batch.labels.unique()) == len(client.batch)
    seconds_to: dict[str, float | None] = {str(threshold): None for threshold in THRESHOLDS}
    meter = Profiler(torch.device("cpu"))
    with meter:
        guess = threat_model(
            client.model,
            received,
            granted.knowledge(client, channel),
            generator=Generator().manual_seed(seed + 2),
            watch=meter.unmetered(first_times(client, seconds_to)) if in_order else None,
        )
    results = []
    for name in enhancers:
        enhancer, done = parse_enhancer(name), guess
        told: dict[str, Any] = {}
        started = time.perf_counter()
        if enhancer is not None:
            refuse_seen(enhancer, client.batch.images)
            done, what = enhance(
                enhancer,
                guess,
                model=client.model,
                update=received,
                knowledge=granted.knowledge(client, channel),
                class_names=client.class_names,
            )
            told = {"misfit": [what.misfit_before, what.misfit_after], "share": what.share}
        seconds = meter.seconds + time.perf_counter() - started
        scored = scores_of(client, align(client.batch.images, done), measures, save if len(enhancers) == 1 else None)
        results.append(
            {
                "attack": str(threat_model),
                "obfuscation": str(channel),
                "training": str(client.training),
                "model": client.model_name,
                "batch": len(client.batch),
                "knowledge": str(granted),
                "enhancer": name,
                "seed": seed,
                **scored,
                **told,
                "seconds": round(seconds, 2),
                "iterations": len(guess.losses),
                "seconds_per_iteration": round(meter.seconds / max(len(guess.losses), 1), 4),
                "peak_mib": None if meter.peak_mib is None else round(meter.peak_mib),
                "seconds_to": seconds_to,
                "stop": guess.stop.value,
                "notes": list(guess.notes),
                "threads": torch.get_num_threads(),
            }
        )
    return results


def scores_of(
    client: Client, guess: Reconstruction, measures: Mapping[str, Metric], save: Path | None
) -> dict[str, Any]:
    """What aligned pictures score, as they would be saved."""
    images = eight_bit(guess.images)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).mul(255).round().byte().numpy()).save(save / f"{i}.png")
    scores = psnr(client.batch.images, images)
    more = {
        name: round(float(measures[name].score(client.batch.images, images).mean()), 4) if name in measures else None
        for name in MEASURED
    }
    blind = psnr(client.batch.images, torch.full_like(images, 0.5))
    sure = None if guess.confidence is None else rank_correlation(guess.confidence.tolist(), scores.tolist())
    return {
        "psnr": round(float(scores.mean()), 3),
        "psnr_min": round(float(scores.min()), 3),
        "each": [round(value, 3) for value in scores.tolist()],
        "psnr_blind": round(float(blind.mean()), 3),
        "confidence_rank": None if sure is None else round(sure, 3),
        **more,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", type=Path, required=True, help="the folder of the published batch")
    parser.add_argument("--attack", required=True, metavar="SPEC", help="such as rog or inverting_gradients:steps=50")
    parser.add_argument("--obfuscation", default="none", metavar="SPEC")
    parser.add_argument("--training", default="fedsgd", metavar="SPEC")
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--knowledge", default="everything known", help="such as 'labels unknown'")
    parser.add_argument("--enhancer", default="none", help="none, faithful, sharp, semantic or a file of unveil fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="write the reconstructions as PNGs into this folder")
    parser.add_argument("--lpips-weights", type=Path, help="score with LPIPS too, with the weights of this file")
    parser.add_argument("--data", type=Path, help="folder of imagenet700_256.npz: score meaning and identity too")
    parser.add_argument("--json", action="store_true", help="one line instead of an indented object")
    args = parser.parse_args()
    try:
        result = run(
            args.anchor,
            attack=args.attack,
            obfuscation=args.obfuscation,
            training_spec=args.training,
            model=args.model,
            batch=args.batch,
            knowledge=args.knowledge,
            enhancer=args.enhancer,
            seed=args.seed,
            save=args.save,
            lpips_weights=args.lpips_weights,
            data=args.data,
        )
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
