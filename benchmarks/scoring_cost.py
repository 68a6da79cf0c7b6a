"""What all measures cost: 16 pictures of 128 px, 200 decoys, models loaded once.

    python benchmarks/scoring_cost.py [--data DIR]

Prints seconds for each measure, in the order in which an audit takes them; a network that several measures ask counts
where it is first asked. Without the research pictures random ones are scored, which costs the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch

from data import read, tensor
from run import HERE, RESULTS, write
from unveil.audits.scoring import MetricSelection
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD

DEFAULT_DATA = HERE.parents[1] / "shared" / "data"
PICTURES, DECOYS, SIZE = 16, 200, 128


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("UNVEIL_DATA", DEFAULT_DATA)))
    args = parser.parse_args()
    weights = args.data / "models" / "lpips_alex.npz"
    if (args.data / "load.py").is_file():
        images = tensor(read(args.data, "imagenet700_256.npz", limit=PICTURES + DECOYS)[0], SIZE)
    else:
        images = torch.rand(PICTURES + DECOYS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    client = Client(
        name="timed",
        model_name="lenet",
        model=build_model("lenet", image_shape=(3, SIZE, SIZE), classes=10, seed=0),
        images=images[:PICTURES],
        labels=torch.zeros(PICTURES, dtype=torch.long),
        classes=10,
        training=FedSGD(),
        source="timed",
        class_names=("tabby cat",),
        evaluation=EvaluationSet(decoys=images[PICTURES:]),
    )
    start = time.perf_counter()
    metrics = MetricSelection(
        lpips_weights=str(weights) if weights.is_file() else None,
        classifier="efficientnet_lite0",
        decoys=DECOYS,
        distance="features",
    )(client)
    seconds = {"models loaded": time.perf_counter() - start}
    noise = torch.randn(images[:PICTURES].shape, generator=torch.Generator().manual_seed(1))
    guess = (images[:PICTURES] + 0.1 * noise).clamp(0, 1)
    for name, metric in metrics.items():
        start = time.perf_counter()
        metric.score(client.batch.images, guess)
        seconds[name] = time.perf_counter() - start
    seconds = {name: round(value, 2) for name, value in seconds.items()}
    loading = seconds.pop("models loaded")
    print(json.dumps(seconds, indent=1))
    scoring = round(sum(seconds.values()), 2)
    print(f"all measures: {scoring} s on {torch.get_num_threads()} cores, after {loading} s of loading the models once")
    write(
        RESULTS / "metrics.json", json.dumps({"loading": loading, "seconds": seconds, "all": scoring}, indent=1) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
