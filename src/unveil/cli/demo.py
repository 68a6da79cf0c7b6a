"""`unveil demo`: an audit of built-in pictures, in under a minute on two cores and without a download."""

from __future__ import annotations

from unveil import attacks, obfuscations
from unveil.audits.audit import Audit
from unveil.audits.controls import LABELS
from unveil.clients import training
from unveil.clients.making import make_client
from unveil.clients.pictures import BUILTIN

MODEL = "lenet"
PICTURES = 8
SIZE = 56
TRAINING = "fedsgd"
OBFUSCATIONS = ("none", "qsgd:levels=16,norm=max", "topk:density=0.05", "gaussian:relative=2.5")
ATTACK = "unveil"


def demo() -> Audit:
    """One client, one attack, the baseline and one obfuscation of each family, each with a control."""
    client = make_client(
        name="demo",
        model=MODEL,
        images=BUILTIN,
        size=SIZE,
        batch=PICTURES,
        training=training.parse(TRAINING),
    )
    return Audit(
        clients=[client],
        obfuscations=[obfuscations.parse(spec) for spec in OBFUSCATIONS],
        attacks=[attacks.parse(ATTACK)],
        controls=[LABELS],
    )
