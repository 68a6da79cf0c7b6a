"""How much sooner the own attack reaches a PSNR than two published presets: the published batch, one run, float32.

The README's table has the same attacks on a processor that computes in bfloat16. Here rough steps are in float32 and
there is one thread, so that a processor without bfloat16 is measured, whatever this one has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import measured, on_threads, published_client
from benchmarks.pages import lines
from benchmarks.published import QSGD16
from unveil.core.arithmetic import using

SENT = (QSGD16, "none")
REACHED: Mapping[str, str] = {"rog": "22", "inverting_gradients": "25"}
"""Preset -> PSNR in dB whose first time is compared."""


def run(obfuscation: str, places: Places) -> Result:
    """PSNR in dB, seconds of the whole attack, and seconds until each PSNR of `REACHED`, for three attacks in turn."""
    client = published_client(places.anchor)
    found = {}
    with on_threads(1), using("float32"):
        for attack in ("unveil", *REACHED):
            (one,) = measured(client, attack=attack, obfuscation=obfuscation)
            first = {level: one["seconds_to"][level] for level in REACHED.values()}
            found[attack] = {"psnr": one["psnr"], "seconds": one["seconds"], "first": first}
    return found


def table(kept: Results) -> Iterator[str]:
    """A row for each update sent and preset."""
    yield "| update sent | preset | `unveil` and preset: PSNR, dB | whole run, s | to this PSNR | takes, s | ratio |"
    yield "|---|---|---|---|---|---|---|"
    for sent in (sent for sent in SENT if sent in kept):
        own = kept[sent]["unveil"]
        for preset, level in REACHED.items():
            other = kept[sent][preset]
            ours, theirs = own["first"][level], other["first"][level]
            never, theirs = theirs is None, other["seconds"] if theirs is None else theirs
            yield (
                f"| `{sent}` | `{preset}` | {own['psnr']:.1f}, {other['psnr']:.1f} "
                f"| {own['seconds']:.0f}, {other['seconds']:.0f} | {level} dB "
                f"| {ours:.1f}, {'not in ' if never else ''}{theirs:.0f} | {'> ' if never else ''}{theirs / ours:.0f} |"
            )


BENCHMARK = Benchmark(
    name="sooner",
    title="how much sooner the own attack reaches a PSNR than published presets, in float32",
    cases=lambda: SENT,
    run=run,
    missing=lambda case, places: places.no_batch,
    minutes=20,
    blocks=(Block(page=DOCS / "performance.md", marker="sooner", table=lines(table)),),
)
