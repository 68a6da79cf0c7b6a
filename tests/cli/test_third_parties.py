"""An audit made of other people's components alone, from its file to its report, on the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from fakes import small_client
from unveil import metrics
from unveil.audits.results import read_trials
from unveil.audits.scoring import MetricSelection
from unveil.audits.threat_model import reordered
from unveil.cli import app
from unveil.clients.training import shortened
from unveil.core.errors import UsageError
from unveil.core.fingerprints import fingerprints
from unveil.core.metric import Metric
from unveil.enhancers.consistency import refuse_seen

PACKAGES = Path(__file__).resolve().parents[1] / "third_party"
AUDIT = """
obfuscations = ["none", "topk:density=0.5+halving:times=2", "lowbits.components:Nameless"]
controls = []

[[client]]
name = "theirs"
model = "plain"
size = 16
batch = 2
training = "lowbits.components:Double"

[[attack]]
name = "lowbits.components:Template"
grey = 0.25

[metrics]
others = ["worst"]
"""


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGES))
    monkeypatch.setattr(metrics, "_RECORDED", {})


@pytest.mark.slow
def test_an_audit_of_other_peoples_components_runs_and_its_report_shows_them(tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text(AUDIT)
    out = tmp_path / "out"
    arguments = ["audit", str(tmp_path / "audit.toml"), "--out", str(out), "--enhancer", "lowbits.components:Lighter"]
    with pytest.raises(SystemExit, match="0"):
        app.main(arguments)
    trials = read_trials(out)
    assert [trial.settings["obfuscation"] for trial in trials] == [
        "none",
        "topk:density=0.5+halving:times=2",
        "lowbits.components:Nameless",
    ]
    assert {trial.family for trial in trials} == {"none", "pipeline", "scaling"}
    for trial in trials:
        assert trial.settings["model"] == "plain"
        assert trial.settings["training"] == "double"
        assert trial.settings["attack"] == "template:grey=0.25"
        assert trial.settings["enhancer"] == "lighter"
        assert (trial.metrics["worst"].heading, trial.metrics["worst"].leak) == ("Worst pixel, grey levels", "low")
        attack, enhanced = trial.outcomes["attack"], trial.outcomes["enhanced"]
        assert len(attack.scores["worst"]) == 2
        assert attack.scores["worst"] != enhanced.scores["worst"]
        assert "Pictures are light." in enhanced.assumptions
    page = (out / "report.html").read_text(encoding="utf-8")
    for shown in ("Worst pixel", "halving:times=2", "lowbits.components:Nameless", "template:grey=0.25", "lighter"):
        assert shown in page, shown
    with pytest.raises(SystemExit, match="0"):  # everything is there already
        app.main(arguments)
    assert len(read_trials(out)) == len(trials)


def test_an_error_in_a_component_names_it_and_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "audit.toml").write_text(AUDIT)
    with pytest.raises(SystemExit, match="2"):
        app.main(["audit", str(tmp_path / "audit.toml"), "--out", str(tmp_path / "out"), "--set", "attack.0.grey=2"])
    message = capsys.readouterr().err
    assert "attack template:grey=2 raised ArithmeticError: too light (" in message
    assert "components.py, line" in message


def test_what_a_trial_recorded_of_a_metric_is_known_to_the_report() -> None:
    assert metrics.facts_of("worst").leak == "high"
    metrics.remember({"worst": metrics.parse("worst").facts, "psnr": metrics.parse("worst").facts})
    assert metrics.facts_of("worst").leak == "low"
    assert metrics.facts_of("psnr") == metrics.FACTS["psnr"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("worst:x=1", "metric 'worst' has no settings, got 'x'; write just 'worst'"),
        ("lpips", "metric 'lpips' is unveil's own; leave it out"),
        ("worse", r"unknown metric 'worse'; did you mean 'worst'\?"),
        ("lowbits.components:Halving", "is not a metric: it has no `leak`"),
    ],
)
def test_a_metric_that_cannot_be_used_is_one_sentence(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MetricSelection(others=(spec,))


def test_a_metric_that_is_not_one_number_a_picture_or_takes_a_name_is_refused() -> None:
    def whole(originals: Tensor, images: Tensor) -> Tensor:
        return torch.zeros(())

    wrong = Metric(name="whole", leak="high", score=whole)
    with pytest.raises(UsageError, match=r"metric 'whole': expected one number a picture, a tensor of 2, got \(\)"):
        metrics.checked(wrong, "metric 'whole'").score(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
    with pytest.raises(UsageError, match="has the name 'psnr' of one of unveil's own"):
        MetricSelection(others=(dataclasses.replace(wrong, name="psnr"),))
    with pytest.raises(UsageError, match="two of `others` have the name 'whole'"):
        MetricSelection(others=(wrong, wrong))


def test_an_enhancer_of_others_may_not_know_the_pictures_either() -> None:
    _, batch = small_client()

    class Knowing:
        is_faithful, uses_labels, assumptions = False, False, ()
        seen = fingerprints(batch.images)

        def __call__(self, guess, *, class_names=()):
            return guess

    with pytest.raises(UsageError, match="4 of the 4 pictures are among those it was trained on"):
        refuse_seen(Knowing(), batch.images)


def test_a_training_of_others_says_how_it_is_reordered_and_shortened() -> None:
    @dataclass(frozen=True)
    class Rounds:
        mode: ClassVar[str] = "eval"
        rounds: int = 9

        def __call__(self, model, batch, *, generator=None):
            return {}

        def simulate(self, model, batch, *, draws=0):
            return {}

        def reordered(self, pictures):
            return Rounds(rounds=-self.rounds)

        def shortened(self, pictures):
            return Rounds(rounds=pictures)

    assert reordered(Rounds(), 4) == Rounds(rounds=-9)
    assert shortened(Rounds(), 4) == Rounds(rounds=4)
