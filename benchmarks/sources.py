"""What another source of training pictures adds to a restorer, on pictures of sources that none of them knows.

    unveil fit caltech99_128.npz imagenet700_256.npz --clients 290 --steps 14000 --seed 1 --work both \\
        --evaluate caltech99_128.npz --evaluate published --leave-out
    python benchmarks/sources.py both/faithful/faithful.safetensors

`published` is the folder of the published batch. Prints the gain in dB of the shipped restorer, trained by this command
without the second file, and of each file given, as the networks answer, not held to any update: what is compared is
what they know of pictures. One attack for each source and channel, 16 pictures, paired; pictures that a network was
trained on are counted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import Generator

from priors import DEFAULT_DATA, QSGD8, TOP1, Trial, scene_of
from run import DEFAULT_ANCHOR
from unveil import attacks, obfuscations
from unveil.audits.threat_model import ThreatModel
from unveil.core.fingerprints import fingerprints, overlap
from unveil.core.types import Update
from unveil.enhancers.learned import FAITHFUL, Learned
from unveil.metrics.pixel import psnr
from unveil.report.statistics import bootstrap_mean

TRIALS = tuple(
    Trial(source=source, obfuscation=obfuscation)
    for source in ("anchor", "Caltech test", "blood cells", "chest X-rays")
    for obfuscation in (QSGD8, TOP1)
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="weights of unveil fit, each named by its folder")
    parser.add_argument("--anchor", type=Path, default=DEFAULT_ANCHOR)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    args = parser.parse_args()
    enhancers = [FAITHFUL, *(Learned(str(path), path).checked() for path in args.files)]
    print("| pictures | update sent | " + " | ".join(e.name for e in enhancers) + " |")
    print("|---" * (2 + len(enhancers)) + "|")
    for trial in TRIALS:
        client, channel = scene_of(trial, args.anchor, args.data), obfuscations.parse(trial.obfuscation)
        sent = Update(client.training(client.model, client.batch))
        received = channel(sent, generator=Generator().manual_seed(1))
        knowledge = ThreatModel().knowledge(client, channel)
        guess = attacks.parse("unveil")(client.model, received, knowledge, generator=Generator().manual_seed(2))
        before = psnr(client.batch.images, guess.images)
        cells = []
        prints = fingerprints(client.batch.images)
        for enhancer in enhancers:
            gain = bootstrap_mean((psnr(client.batch.images, enhancer(guess).images) - before).tolist())
            known = len(overlap(prints, enhancer.seen))
            seen = f" ({known} trained on)" if known else ""
            cells.append(f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]{seen}")
        print(f"| {trial.source} | `{trial.obfuscation}` | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
