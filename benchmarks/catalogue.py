"""All benchmarks by name. To add one: write its module with a `BENCHMARK`, and add it here."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks import (
    advice,
    beyond,
    bounds,
    cohorts,
    doctor,
    fingerprint,
    flower,
    gain,
    gpu,
    iteration,
    labels,
    meaning,
    peeling,
    performance,
    priors,
    published,
    reliability,
    rounding,
    rounds,
    scoring_cost,
    sooner,
    sources,
    study,
    sweeps,
    train_mode,
    trained,
    trainers,
    transformers,
    tuning,
    verdicts,
)
from benchmarks.frame import Benchmark

BENCHMARKS: Mapping[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        *(published, iteration, beyond, labels, gain, priors, meaning, sources, verdicts, scoring_cost, study),
        *(tuning, trained, train_mode, transformers, peeling, fingerprint, doctor, bounds, reliability),
        *(rounding, flower, advice, cohorts, rounds, performance, sooner, trainers, sweeps, gpu),
    )
}
