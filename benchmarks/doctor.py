"""Whether the doctor names faults that were planted into recorded updates, and none of sound ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import on_threads
from benchmarks.planting import FAULTS, plant, sound
from unveil.inspection.doctor.checks import diagnose

SOUND = "none"
NUMBERS = range(2000, 2005)  # the first look, at 1000 to 1004, led to two changes
SOUND_NUMBERS = range(2000, 2024)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One recorded update.

    Args:
        fault: What is planted; `none` for nothing.
        number: All else that is drawn follows from it: network, pictures, weights, training, obfuscation.
    """

    fault: str
    number: int

    def __str__(self) -> str:
        return f"{self.fault}; {self.number}"


CASES: Sequence[Case] = (
    *(Case(fault=SOUND, number=number) for number in SOUND_NUMBERS),
    *(Case(fault=fault, number=number) for number in NUMBERS for fault in FAULTS),
)


def run(case: Case, places: Places) -> Result:
    """The faults that were named, notes apart, and whether this one is among them; on one thread."""
    with on_threads(1):
        if case.fault == SOUND:
            planted = sound(case.number, places.data)
        else:
            planted = plant(case.fault, case.number, places.data)
        started = time.process_time()
        found = diagnose(planted.recording, planted.network, planted.setting.obfuscation)
        used = time.process_time() - started
    return {
        "network": planted.setting.network,
        "images": planted.setting.pictures,
        "obfuscation": planted.setting.obfuscation,
        "steps": planted.setting.steps,
        "records": planted.setting.records,
        "named": case.fault in found.names,
        "others": sorted(one.name for one in found.faults if one.name != case.fault and one.severity != "note"),
        "fact": next((one.fact for one in found.faults if one.name == case.fault), None),
        "cannot": next((one.reason for one in found.untold if one.name == case.fault), None),
        "processor_seconds": round(used, 2),
    }


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here; empty if it can."""
    return places.no_pictures


def table(results: Results) -> str:
    """A line for each fault: how many updates have it, how often it is named, said to be hidden, and beside others."""
    lines = [
        "| planted | updates | named | said that it cannot be told | missed | with another fault beside | s / update |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault in (SOUND, *FAULTS):
        some = [results[str(case)] for case in CASES if case.fault == fault and str(case) in results]
        if not some:
            continue
        named = sum(one["named"] for one in some)
        hidden = sum(one["cannot"] is not None and not one["named"] for one in some)
        others = sum(bool(one["others"]) for one in some)
        counts = "- | - | -" if fault == SOUND else f"{named} | {hidden} | {len(some) - named - hidden}"
        seconds = sum(one["processor_seconds"] for one in some) / len(some)
        lines.append(f"| {fault} | {len(some)} | {counts} | {others} | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


BENCHMARK = Benchmark(
    name="doctor",
    title="faults named in recorded updates, and in sound ones",
    cases=lambda: CASES,
    run=run,
    missing=missing,
    minutes=15,
    blocks=(Block(page=DOCS / "inspect.md", marker="doctor", table=table),),
)
