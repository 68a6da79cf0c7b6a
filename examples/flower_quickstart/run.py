"""Train with Flower's simulation, record two rounds, and audit what eight clients sent; some minutes.

    pip install 'unveil[flower]'
    python examples/flower_quickstart/run.py

Another obfuscation: --obfuscation fp16, or any SPEC. Recordings and reports are in flower-quickstart/, or --out FOLDER.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from app import client_app, server_app
from flwr.simulation import run_simulation
from scipy.stats import binomtest
from task import Pictures, tiles

import unveil as uv
from unveil.core.pixels import png_of

CLIENTS, ROUNDS, DECOYS = 8, 2, 200
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--obfuscation", default="topk:density=0.05", metavar="SPEC")
    parser.add_argument("--out", type=Path, default=Path("flower-quickstart"))
    args = parser.parse_args()
    out = args.out.absolute()
    pictures = tiles()
    federate(out / "recordings", args.obfuscation, pictures)
    save_decoys(out / "decoys", pictures)
    for place in ("before", "sent"):
        print(f"\nAn audit of what was recorded {place} ({args.obfuscation} is between the two):", flush=True)
        audit(out, place)


def audit(out: Path, place: str) -> None:
    """Audit recorded updates on the command line, and say how often the original was the first of all decoys."""
    folder = out / "recordings" / place
    options = ["--truth", folder, "--decoys", out / "decoys", "--out", out / f"audit-{place}", "--images", "full"]
    command = [sys.executable, "-m", "unveil", "audit", folder, "--model", "task:Net", *options]
    subprocess.run([str(part) for part in command], check=True, cwd=HERE)
    outcomes = [trial.outcomes["attack"] for trial in uv.read_trials(out / f"audit-{place}")]
    for who, scores in (
        ("attack", [outcome.scores for outcome in outcomes]),
        ("control", [outcome.controls["labels only"] for outcome in outcomes]),
    ):
        found = [bool(first) for score in scores for first in score["reid_top1"]]
        low, high = binomtest(sum(found), len(found)).proportion_ci(method="wilson")
        print(f"{who}: {sum(found)} of {len(found)} pictures found first among {DECOYS} decoys [{low:.0%}, {high:.0%}]")


def federate(recordings: Path, obfuscation: str, pictures: Pictures) -> None:
    """Run the federation in Flower's simulation."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    run_simulation(
        server_app=server_app(ROUNDS, CLIENTS),
        client_app=client_app(recordings, obfuscation, pictures),
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}},
    )


def save_decoys(folder: Path, pictures: Pictures) -> None:
    """Save pictures that no client has, among which the audit looks for the clients' own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures[0][-DECOYS:]):
        (folder / f"{number:03d}.png").write_bytes(png_of(picture))


if __name__ == "__main__":
    main()
