"""Judge the shipped restorers on pictures that they do not know, and write the figures into their cards.

    python -m benchmarks.cards [--data DIR] [--clients 40]

The clients are those of `unveil fit` (obfuscations, trainings, networks drawn at random), with Caltech's test
pictures. During their training the restorers were judged on clients that were held out while their pictures were not.
The generators' cards say so; their reader, which named the pictures, is not kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks.frame import Places
from unveil.core.fingerprints import overlap
from unveil.enhancers import CATALOGUE, path_of
from unveil.enhancers.restorer import Restorer
from unveil.enhancers.weights import load_weights
from unveil.fitting.fit import write
from unveil.fitting.pairs import Pairs, make_pairs
from unveil.fitting.recipes import RESTORATION
from unveil.fitting.restoring import RestorerTask
from unveil.fitting.sources import read_source
from unveil.fitting.store import PairStore

SHARED = "held-out clients of the same source, whose pictures other clients had too"
SEED = 7  # not the training's


@dataclass(frozen=True)
class Held:
    """Stands for a `PairStore` that is only judged with."""

    validation: Sequence[Pairs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Places.data)
    parser.add_argument("--clients", type=int, default=40)
    args = parser.parse_args()
    kept = {name: load_weights(path_of(name)) for name in CATALOGUE}
    source = read_source(args.data / "caltech99_128.npz", split=1)
    prints = source.fingerprints
    known = {row for network, seen, _ in kept.values() for row in overlap(prints, seen).tolist()}
    source = source.only([row for row in range(len(source)) if row not in known])
    pairs = []
    for number in range(args.clients):
        pairs.append(make_pairs(source, RESTORATION, seed=SEED, number=number))
        print(f"[{number + 1}/{args.clients}] {pairs[-1].made}", file=sys.stderr, flush=True)
    for name, (network, seen, card) in kept.items():
        if isinstance(network, Restorer):
            figures, _ = RestorerTask(network=network, store=cast(PairStore, Held(pairs))).network.verdict
            card |= {"figures": figures, "judged": f"{len(pairs)} clients with Caltech's test pictures"}
            print(name, figures)
        else:
            card.setdefault("judged", SHARED)
        before = card.pop("checksum")
        after = write(network, path_of(name), seen=seen, card=card)["checksum"]
        if after != before:
            raise SystemExit(f"{name}: the weights changed ({before} to {after}); restore them from version control")
    return 0


if __name__ == "__main__":
    sys.exit(main())
