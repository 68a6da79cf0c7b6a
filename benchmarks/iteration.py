"""What one iteration of update matching costs, against plain torch, measured in turns in one process.

The plain iteration is what one would write by hand: forward, backward with the graph kept, the squared distance to the
received gradient, and the backward of that. All variants see the same LeNet, 16 pictures of 128 px, and QSGD's output.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from benchmarks.frame import README, Benchmark, Block, Results
from unveil import obfuscations
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.core import gradient
from unveil.core.batch import Batch
from unveil.core.objectives import OBJECTIVES
from unveil.core.protocols import Knowledge, Misfit
from unveil.core.update import Update

SHAPE, CLASSES, BATCH = (3, 128, 128), 1000, 16


def variants() -> dict[str, Callable[[], Tensor]]:
    """Name -> one iteration, from the pictures to the gradient with respect to them."""
    generator = Generator().manual_seed(0)
    model = build_model("lenet", image_shape=SHAPE, classes=CLASSES, seed=0)
    labels = torch.randperm(CLASSES, generator=generator)[:BATCH]
    private = Batch(torch.rand((BATCH, *SHAPE), generator=generator), labels)
    obfuscation = obfuscations.parse("qsgd:levels=16,norm=max")
    training = FedSGD()
    received = obfuscation(Update(training(model, private)), generator=generator)
    knowledge = Knowledge(
        training=training, image_shape=SHAPE, num_images=BATCH, classes=CLASSES, labels=labels, obfuscation=obfuscation
    )
    images = torch.rand((BATCH, *SHAPE), generator=generator).requires_grad_()
    parameters = dict(model.named_parameters())

    def plain() -> Tensor:
        loss = F.cross_entropy(model(images), labels)
        grads = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        distance = sum((g - received.tensors[n]).square().sum() for n, g in zip(parameters, grads, strict=True))
        return torch.autograd.grad(distance, images)[0]

    def ours(misfit: Misfit) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(misfit(training.simulate(model, Batch(images, labels))), images)[0]

    def built(iteration: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The same with every gradient built, to show what the thin factors gain."""

        def run() -> Tensor:
            worth_it, gradient.WORTH_IT = gradient.WORTH_IT, 1 << 60
            try:
                return iteration()
            finally:
                gradient.WORTH_IT = worth_it

        return run

    misfits = {name: ours(OBJECTIVES[name](received, knowledge)) for name in ("squared", "cosine", "misfit")}
    return {
        "plain torch": plain,
        "squared, thin": misfits["squared"],
        "squared, built": built(misfits["squared"]),
        "cosine, thin": misfits["cosine"],
        "misfit of QSGD, thin": misfits["misfit"],
        "misfit of QSGD, built": built(misfits["misfit"]),
    }


def measure(repeats: int = 7) -> dict[str, object]:
    """Median seconds of each variant and its ratio to plain torch, taken pair by pair."""
    runs = variants()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    gradients = {name: run() for name, run in runs.items()}  # the warm-up, and the proof that they agree
    same = F.cosine_similarity(gradients["plain torch"].flatten(), gradients["squared, thin"].flatten(), dim=0)
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, seconds["plain torch"], strict=True))
        for name, times in seconds.items()
    }
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": repeats,
        "cosine_of_plain_and_thin_gradient": round(float(same), 6),
        "seconds": {name: round(statistics.median(times), 4) for name, times in seconds.items()},
        "ratio_to_plain": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }


def table(results: Results) -> str:
    """The Markdown table."""
    cost = results["all"]
    rows = ["| one iteration, LeNet, 16 images | seconds | ratio to plain torch |", "|---|---|---|"]
    rows += [f"| {name} | {s:.2f} | {cost['ratio_to_plain'][name]:.2f} |" for name, s in cost["seconds"].items()]
    return "\n".join(rows) + "\n"


BENCHMARK = Benchmark(
    name="iteration",
    title="seconds of one iteration, as ratios to plain torch in one run",
    cases=lambda: ["all"],
    run=lambda case, places: measure(),
    minutes=1,
    blocks=(Block(page=README, marker="iteration", table=table),),
)
