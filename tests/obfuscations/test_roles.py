"""Pipelines ask for roles: a stage of another package with the same members is treated as ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fakes import small_client, small_update
from instances import PLAIN
from seeds import seeded
from unveil.clients.training import FedSGD
from unveil.core.binding import for_client
from unveil.core.protocols import Obfuscation
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.pipeline import Pipeline

BEHIND = [spec for spec in PLAIN if not spec.startswith("layers")]  # which stands first
PIPELINES = (
    *(f"{first}+{second}" for first in PLAIN for second in ("qsgd:levels=16,norm=max", "gaussian:relative=1")),
    *(f"topk:density=0.2+{second}" for second in BEHIND),
    *(f"gaussian:relative=0.2+{second}" for second in BEHIND),
    *(f"gaussian:snr_db=10+{second}" for second in ("sign:scale=true", "topk:density=0.2", "uniform:bits=4")),
    *(f"sign:scale=true+{second}" for second in BEHIND),
    "clip:norm=0.1+gaussian:sigma=0.001+topk:density=0.2",
    "randomk:density=0.5,unbiased=true+clip:norm=0.1+uniform:bits=4+gaussian:relative=0.5",
)


def stranger(stage: Obfuscation) -> Any:
    """The same settings and methods in a class that shares no parent with ours."""
    if isinstance(stage, Pipeline):
        return Pipeline(tuple(stranger(part) for part in stage.stages))
    members = {name: value for parent in reversed(type(stage).__mro__[:-1]) for name, value in vars(parent).items()}
    kept = {name: value for name, value in members.items() if not name.startswith(("_abc", "__"))}
    own = {name: members[name] for name in ("__call__", "__str__", "__dataclass_fields__")}
    made = object.__new__(type("Stranger", (), {**kept, **own}))
    vars(made).update(vars(stage))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("spec", dict.fromkeys(PIPELINES))
def test_a_stage_of_another_package_with_the_same_members_is_treated_as_ours(spec: str) -> None:
    ours = for_client(parse(spec), *small_client(), FedSGD())
    assert isinstance(ours, Pipeline)
    theirs, truth = stranger(ours), small_update()
    received = ours(truth, generator=seeded(0))
    sent = theirs(truth, generator=seeded(0)).tensors
    assert all(torch.equal(tensor, received.tensors[name]) for name, tensor in sent.items())
    for candidate in (truth.tensors, {name: 0.5 * t.roll(1) for name, t in truth.tensors.items()}):
        assert float(theirs.misfit(received)(candidate)) == float(ours.misfit(received)(candidate))
    models, everything = theirs.entry_models(received), (slice(None), slice(None))
    for name, model in ours.entry_models(received).items():
        for own, other in zip(
            model(truth.tensors[name], everything), models[name](truth.tensors[name], everything), strict=True
        ):
            assert torch.equal(own, other)


class Mystery:
    """Halves what comes in and adds noise; has no role at all."""

    name, family = "mystery", "other"

    def __call__(self, update: Update, *, generator: torch.Generator) -> Update:
        sent = {n: t / 2 + 1e-3 * torch.randn(t.shape, generator=generator) for n, t in update.tensors.items()}
        return Update(sent, update.coding, update.support)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Any:
        def misfit(candidate: Any) -> torch.Tensor:
            far = [(candidate[name] / 2 - y).square() for name, y in received.tensors.items()]
            masks = [received.sent(name) for name in received.tensors]
            kept = [d if mask is None or not sent_only else d * mask for d, mask in zip(far, masks, strict=True)]
            return torch.stack([d.sum() for d in kept]).sum()

        return misfit

    def __str__(self) -> str:
        return "mystery"


@pytest.mark.parametrize("before", ["none", "fp16", "topk:density=0.2", "gaussian:sigma=0.0001"])
def test_a_stage_of_which_only_its_misfit_is_known_explains_what_was_sent(before: str) -> None:
    pipeline, truth = Pipeline((parse(before), Mystery())), small_update()
    misfit = pipeline.misfit(pipeline(truth, generator=seeded(0)))
    half, double = ({name: factor * t for name, t in truth.tensors.items()} for factor in (0.5, 2.0))
    assert float(misfit(truth.tensors)) < 0.2 * min(float(misfit(half)), float(misfit(double)))
