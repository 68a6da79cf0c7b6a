"""What all metrics cost: 16 pictures of 128 px, 200 decoys, models loaded once.

Seconds for each metric, in the order in which an audit takes them; a network that several metrics ask counts where it
is first asked. Without the research pictures random ones are scored, which costs the same.
"""

from __future__ import annotations

import time

import torch

from benchmarks.frame import Benchmark, Places, Result
from benchmarks.reading import read, tensor
from unveil.audits.scoring import MetricSelection
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.models import build_model

PICTURES, DECOYS, SIZE = 16, 200, 128


def run(case: str, places: Places) -> Result:
    """Seconds of loading, of each metric and of all."""
    weights = places.data / "models" / "lpips_alex.npz"
    if (places.data / "load.py").is_file():
        images = tensor(read(places.data, "imagenet700_256.npz", limit=PICTURES + DECOYS)[0], SIZE)
    else:
        images = torch.rand(PICTURES + DECOYS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    client = Client(
        build_model("lenet", image_shape=(3, SIZE, SIZE), classes=10, seed=0),
        images[:PICTURES],
        torch.zeros(PICTURES, dtype=torch.long),
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
    return {"loading": loading, "seconds": seconds, "all": round(sum(seconds.values()), 2)}


BENCHMARK = Benchmark(name="scoring_cost", title="seconds of every metric", cases=lambda: ["all"], run=run, minutes=1)
