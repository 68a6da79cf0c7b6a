"""The one door.

    python -m benchmarks list                    # what there is, how much of it is done, how long it takes
    python -m benchmarks run beyond --only ResNet   # run what is not kept yet, then fill in its tables
    python -m benchmarks tables                  # fill in all tables from the results
    python -m benchmarks check                   # tables equal their results, figures have their command

Results are kept in benchmarks/results as soon as a case ends; started again, what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.catalogue import BENCHMARKS
from benchmarks.figures import problems
from benchmarks.frame import ROOT, Benchmark, Places
from benchmarks.pages import stale, updated
from benchmarks.store import Store
from unveil.core.errors import UsageError
from unveil.core.files import write_whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is")
    run = commands.add_parser("run", help="run the cases that are not kept yet")
    run.add_argument("name", choices=list(BENCHMARKS))
    run.add_argument("--only", default="", help="cases whose key holds this")
    run.add_argument("--fresh", action="store_true", help="run again what another commit made")
    run.add_argument("--data", type=Path, default=Places.data, help="folder of the research pictures")
    run.add_argument("--anchor", type=Path, default=Places.anchor, help="folder of the published batch")
    run.add_argument("--audit", type=Path, help="results folder, for benchmarks that are audits")
    run.add_argument("--case", help="run one case here and print its result; keeps nothing")
    commands.add_parser("tables", help="fill in all tables")
    commands.add_parser("check", help="compare tables with results, and figures with their commands")
    args = parser.parse_args()
    if args.command == "list":
        return show()
    if args.command == "tables":
        for benchmark in BENCHMARKS.values():
            fill(benchmark)
        return 0
    if args.command == "check":
        return check()
    places = Places(data=args.data, anchor=args.anchor, audit=args.audit)
    try:
        return run_cases(BENCHMARKS[args.name], places, only=args.only, fresh=args.fresh, case=args.case)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def show() -> int:
    """Print a line a benchmark."""
    for benchmark in BENCHMARKS.values():
        keys = [str(case) for case in benchmark.cases()]
        store = Store(benchmark.name)
        done = f"{sum(key in store for key in keys)} of {len(keys)}"
        print(f"{benchmark.name:14} {done:>12}  {benchmark.minutes:4.0f} min  {benchmark.title}")
    return 0


def run_cases(benchmark: Benchmark, places: Places, *, only: str, fresh: bool, case: str | None) -> int:
    """Run the cases that are not kept, keep each, and fill in the tables."""
    cases = {str(one): one for one in benchmark.cases()}
    if case is not None:
        print(json.dumps(benchmark.run(cases[case], places)))
        return 0
    store = Store(benchmark.name)
    todo = [key for key in cases if only in key and (key not in store or (fresh and not store.is_of_this_commit(key)))]
    for number, key in enumerate(todo, 1):
        if reason := benchmark.missing(cases[key], places):
            print(f"skipped {key}: {reason}")
            continue
        store.put(key, _apart(benchmark, key, places) if benchmark.apart else benchmark.run(cases[key], places))
        print(f"{number}/{len(todo)} {key}", flush=True)
    fill(benchmark)
    return 0


def _apart(benchmark: Benchmark, key: str, places: Places) -> object:
    """The result of one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "run", benchmark.name, "--case", key]
    command += ["--data", str(places.data), "--anchor", str(places.anchor)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])  # packages print what they load


def fill(benchmark: Benchmark) -> None:
    """Write the benchmark's tables into their pages."""
    store = Store(benchmark.name)
    for block in benchmark.blocks:
        write_whole(block.page, updated(block, store).encode())


def check() -> int:
    """Print what is wrong; 1 if anything is."""
    wrong = [
        f"{page.relative_to(ROOT)}: block {marker} is not what benchmarks/results/{name}.json says; "
        "run python -m benchmarks tables"
        for name, benchmark in BENCHMARKS.items()
        for page, marker in stale(benchmark)
    ]
    wrong += problems()
    print("\n".join(wrong) or "every table equals its results, every figure has its command")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
