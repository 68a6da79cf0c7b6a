"""The benchmark on a card, run with a tiny client: on the processor, and on a pretended card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from benchmarks.frame import Places
from benchmarks.gpu import CARD, CASES, PROCESSOR, busy_share, missing, on_device, table

from pretended_card import NAME, PEAK_MIB, pretended_card
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD


def tiny() -> Client:
    return make_client(name="c", model="lenet", images="builtin", size=16, batch=2, training=FedSGD())


def test_without_a_card_nothing_is_run_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {missing(case, Places()) for case in CASES} == {"no CUDA device is here"}
    assert list(table({})) == [
        "Not run on a card yet: none was at hand. `python -m benchmarks run gpu` runs it where there is one."
    ]


@pytest.mark.slow
def test_a_card_stands_beside_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(work: Callable[[], None], device: torch.device) -> float:
        work()
        return 0.5

    monkeypatch.setattr("benchmarks.gpu.FEW", 1)
    monkeypatch.setattr("benchmarks.gpu.busy_share", quick)
    here = next(case for case in CASES if case.attack == "rog" and case.device == PROCESSOR)
    there = replace(here, device=CARD)
    short = {case: replace(case, attack="rog:steps=2") for case in (here, there)}
    kept = {str(here): on_device(short[here], tiny())}
    with pretended_card(monkeypatch):
        kept[str(there)] = on_device(short[there], tiny())
    assert kept[str(there)]["psnr"] == kept[str(here)]["psnr"]
    head, _, row = table(kept)
    assert NAME in head
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["lenet", "`rog`"]
    assert cells[3] == cells[4] == f"{kept[str(here)]['psnr']:.2f}"
    assert cells[-2:] == ["50 %", str(PEAK_MIB)]


def test_the_busy_share_is_that_of_torch() -> None:
    matrix = torch.rand(600, 600)

    def multiply() -> None:
        for _ in range(20):
            matrix @ matrix

    busy = busy_share(multiply, torch.device(PROCESSOR))
    assert 0 < busy < 1.1
