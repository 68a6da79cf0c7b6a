"""A tiny audit whose scores are kept.

python tests/golden/record.py             writes them anew
python tests/golden/record.py --shake 6   prints how far they move where every weight is changed by a millionth, 6 times
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import Module

from unveil import attacks, obfuscations
from unveil.audits.audit import Audit
from unveil.audits.controls import LABELS
from unveil.audits.running import run
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.arithmetic import using
from unveil.report import summarise

RECORDED = Path(__file__).with_name("scores.json")
OBFUSCATIONS = ("none", "qsgd:levels=16,norm=max")
ATTACKS = ("unveil:steps=10", "inverting_gradients:steps=20", "rog:factor=2,steps=10")

Scores = dict[str, dict[str, float]]


def scores(shaken: int | None = None) -> Scores:
    """Attack and obfuscation -> metric -> mean score, and the size sent in bits. In float32 on every processor.

    Args:
        shaken: Seed of small changes of the model's weights; None for none.
    """
    client = make_client(
        name="golden",
        model="lenet",
        images="builtin",
        size=32,
        batch=2,
        classes=10,
        training=FedSGD(),
    )
    if shaken is not None:
        client = replace(client, model=_shaken(client.model, shaken))
    audit = Audit(
        clients=[client],
        obfuscations=[obfuscations.parse(spec) for spec in OBFUSCATIONS],
        attacks=[attacks.parse(spec) for spec in ATTACKS],
        controls=[LABELS],
    )
    with tempfile.TemporaryDirectory() as folder, using("float32"):
        rows = summarise(run(audit, Path(folder)))
    found: Scores = {}
    for row in rows:
        means = {name: score.mean.mean for name, score in row.scores.items()}
        nulls = {f"{name}, {c.control}": c.value for name, score in row.scores.items() for c in score.contrasts}
        found[f"{row.attack}, {row.obfuscation}"] = means | nulls | {"bits": row.wire_bits}
    return found


def _shaken(model: Module, seed: int) -> Module:
    """The model with every weight changed by about a millionth of it, some ten times what rounding to float32 does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 1e-6 * torch.randn(weight.shape, generator=generator))
    return model


def main() -> None:
    """Write the scores beside this file, or print how far they move."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shake", type=int, metavar="TIMES", help="write nothing, print the largest differences")
    times = parser.parse_args().shake
    if times is None:
        rounded = {name: {key: round(value, 3) for key, value in row.items()} for name, row in scores().items()}
        RECORDED.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
        return
    kept: Scores = json.loads(RECORDED.read_text(encoding="utf-8"))
    largest = {"psnr, dB": 0.0, "others": 0.0}
    for row in (pair for seed in range(times) for pair in scores(seed).items()):
        for key, value in row[1].items():
            kind = "psnr, dB" if key.startswith("psnr") else "others"
            largest[kind] = max(largest[kind], abs(value - kept[row[0]][key]) if key != "bits" else 0.0)
    print(json.dumps(largest))


if __name__ == "__main__":
    main()
