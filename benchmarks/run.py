"""Run the standard table on the published batch: `make bench`.

    python benchmarks/run.py [--anchor DIR] [--seeds 3] [--only rog]

Every run is a process of its own (`anchor.py --json`), kept in benchmarks/results/anchor.json as soon as it ends;
started again, what is there is not run again (`--fresh` forgets it). Then the tables of anchor.md and of the README are
written from it. Without the published batch nothing is run and nothing changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
DEFAULT_ANCHOR = HERE.parents[1] / "shared" / "anchors" / "rog"

Run = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One line of the table: what is run, and the figure to reach, in dB."""

    attack: str
    obfuscation: str
    target: float | None
    training: str = "fedsgd"


QSGD16, QSGD2 = "qsgd:levels=16,norm=max", "qsgd:levels=2,norm=max"
STANDARD = (
    Line("unveil", "none", 30.0),
    Line("unveil", QSGD16, 27.0),
    Line("unveil", "qsgd:levels=8,norm=max", 25.5),
    Line("unveil", QSGD2, 20.0),
    Line("unveil", "gaussian:relative=2.5", 22.5),
    Line("unveil", "topk:density=0.05", 22.0),
    Line("unveil", "topk:density=0.01", 16.0),
    Line("unveil", "none", 26.0, training="fedavg:steps=5,lr=0.003"),
    Line("unveil", QSGD16, 24.0, training="fedavg:steps=5,lr=0.003"),
    Line("rog", "none", 22.4),
    Line("rog", QSGD16, 22.4),
    Line("rog", QSGD2, 17.6),
    Line("rog", "topk:density=0.05", 15.9),
    Line("rog", "gaussian:relative=2.5", 19.9),
    Line("inverting_gradients", "none", 25.4),
    Line("inverting_gradients", QSGD16, 25.2),
    Line("inverting_gradients", "topk:density=0.05", 18.1),
    Line("inverting_gradients", "topk:density=0.01", 13.3),
    Line("inverting_gradients", "gaussian:relative=2.5", 19.9),
    Line("rog:objective=misfit", QSGD16, None),
    Line("rog:objective=misfit", QSGD2, None),
    Line("rog:objective=misfit", "topk:density=0.05", None),
    Line("rog", "none", 21.0, training="fedavg:steps=5,lr=0.003"),
)


def key(run: Run) -> tuple[str, str, str, int]:
    """What makes a run the same run."""
    return run["attack"], run["obfuscation"], run["training"], run["seed"]


def attack(line: Line, seed: int, anchor: Path) -> Run:
    """One run in a process of its own."""
    command = [sys.executable, str(HERE / "anchor.py"), "--json", "--anchor", str(anchor), "--seed", str(seed)]
    command += ["--attack", line.attack, "--obfuscation", line.obfuscation, "--training", line.training]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: Run = json.loads(finished.stdout)
    return result


def write(path: Path, text: str) -> None:
    """Replace a file at once, so that an interruption never leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(text)
    temporary.replace(path)


def table(runs: list[Run]) -> str:
    """The Markdown table of all lines that have a run."""
    rows = [
        "| attack | update sent | PSNR dB (to reach) | worst image | SSIM | s / iteration | iterations "
        "| to 22 dB, s | peak MiB | confidence | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in STANDARD:
        found = [r for r in runs if key(r)[:3] == (line.attack, line.obfuscation, line.training)]
        if not found:
            continue

        def mean(name: str, found: list[Run] = found) -> float:
            return statistics.mean(run[name] for run in found)

        spread = [run["psnr"] for run in found]
        reached = [run["seconds_to"]["22"] for run in found]
        sent = "`, then `".join(spec for spec in (line.training, line.obfuscation) if spec not in ("fedsgd", "none"))
        sent = sent or "none"
        sure = [run["confidence_rank"] for run in found if run.get("confidence_rank") is not None]
        range_ = f" ± {max(spread) - min(spread):.2f}" if len(found) > 1 else ""
        goal = f" ({line.target:.1f})" if line.target is not None else ""
        time = f"{statistics.mean(reached):.0f}" if None not in reached else "-"
        peak = max(run["peak_mib"] or 0 for run in found)
        rank = f"{statistics.mean(sure):.2f}" if sure else "-"
        rows.append(
            f"| `{line.attack}` | `{sent}` | {mean('psnr'):.2f}{range_}{goal} "
            f"| {min(run['psnr_min'] for run in found):.1f} | {mean('ssim'):.3f} | {mean('seconds_per_iteration'):.2f} "
            f"| {found[0]['iterations']} | {time} | {peak} | {rank} | {len(found)} |"
        )
    return "\n".join(rows) + "\n"


def presets(runs: list[Run]) -> str:
    """The Markdown table of the three presets side by side, and how many times longer the other two took.

    Over the seeds that all presets of a line were run with. A preset that never came to a level took longer than its
    whole run.
    """
    rows = [
        "| update sent | `unveil` | `rog` | `inverting_gradients` | `rog` / `unveil`: time, to 22 dB "
        "| `inverting_gradients` / `unveil`: time, to 25 dB | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    names = ("unveil", "rog", "inverting_gradients")
    for line in STANDARD:
        of = {
            name: {r["seed"]: r for r in runs if key(r)[:3] == (name, line.obfuscation, line.training)}
            for name in names
        }
        there = [name for name in names if of[name]]
        if line.attack != "unveil" or len(there) < 2 or "unveil" not in there:
            continue
        seeds = sorted(set.intersection(*(set(of[name]) for name in there)))
        cells = []
        for name in names:
            found = [of[name][seed] for seed in seeds] if name in there else []
            cells.append(f"{_mean(found, 'psnr'):.2f} dB, {_mean(found, 'seconds'):.0f} s" if found else "-")
        for other, level in (("rog", "22"), ("inverting_gradients", "25")):
            if other not in there:
                cells.append("-")
                continue
            whole = sum(of[other][s]["seconds"] for s in seeds) / sum(of["unveil"][s]["seconds"] for s in seeds)
            cells.append(f"{whole:.1f}, {_to(level, [of['unveil'][s] for s in seeds], [of[other][s] for s in seeds])}")
        sent = "`, then `".join(spec for spec in (line.training, line.obfuscation) if spec not in ("fedsgd", "none"))
        rows.append(f"| `{sent or 'none'}` | " + " | ".join(cells) + f" | {len(seeds)} |")
    return "\n".join(rows) + "\n"


def _mean(found: list[Run], name: str) -> float:
    return statistics.mean(run[name] for run in found)


def _to(level: str, fast: list[Run], slow: list[Run]) -> str:
    """How many times longer the slow one took to a level of PSNR."""
    ours = [run["seconds_to"][level] for run in fast]
    if None in ours:
        return "-"
    theirs = [run["seconds_to"][level] or run["seconds"] for run in slow]
    more = "> " if any(run["seconds_to"][level] is None for run in slow) else ""
    return f"{more}{sum(theirs) / sum(ours):.0f}"


def into_readme(name: str, text: str) -> None:
    """Put a table between its markers in the README."""
    readme = README.read_text()
    pattern = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
    write(README, re.sub(pattern, lambda m: m[1] + text + m[2], readme, flags=re.DOTALL))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", type=Path, default=Path(os.environ.get("UNVEIL_ANCHOR", DEFAULT_ANCHOR)))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each line")
    parser.add_argument("--only", default="", help="lines whose attack starts with this")
    parser.add_argument("--fresh", action="store_true", help="forget what was run before")
    args = parser.parse_args()
    if not (args.anchor / "anchor.json").is_file():
        print("skipped: the published batch is not here; name its folder with --anchor or UNVEIL_ANCHOR")
        return 0
    kept = RESULTS / "anchor.json"
    runs: list[Run] = json.loads(kept.read_text()) if kept.is_file() and not args.fresh else []
    lines = [line for line in STANDARD if line.attack.startswith(args.only)]
    # Every line once, then its other seeds: stopped early, the table is whole.
    todo = [(line, 0) for line in lines] + [(line, seed) for line in lines for seed in range(1, args.seeds)]
    for number, (line, seed) in enumerate(todo, 1):
        if (line.attack, line.obfuscation, line.training, seed) in {key(run) for run in runs}:
            continue
        runs.append(attack(line, seed, args.anchor))
        write(kept, json.dumps(runs, indent=1) + "\n")
        done = runs[-1]
        print(f"{number}/{len(todo)} {key(done)}: {done['psnr']:.2f} dB in {done['seconds']:.0f} s", flush=True)
    cost = subprocess.run([sys.executable, str(HERE / "iteration.py")], stdout=subprocess.PIPE, check=True, text=True)
    write(RESULTS / "iteration.json", cost.stdout)
    write(RESULTS / "anchor.md", table(runs) + "\n" + presets(runs))
    into_readme("anchor", table(runs))
    into_readme("presets", presets(runs))
    into_readme("iteration", iteration_table(json.loads(cost.stdout)))
    print(table(runs))
    print(presets(runs))
    return 0


def iteration_table(cost: dict[str, Any]) -> str:
    """The Markdown table of `iteration.json`."""
    rows = ["| one iteration, LeNet, 16 images | seconds | ratio to plain torch |", "|---|---|---|"]
    rows += [f"| {name} | {s:.2f} | {cost['ratio_to_plain'][name]:.2f} |" for name, s in cost["seconds"].items()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
