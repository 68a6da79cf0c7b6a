import io

from rich.console import Console

from unveil.audits.progress import AuditProgress
from unveil.cli.progress import shown
from unveil.core.reconstruction import Stop
from unveil.core.records import ATTACK, ScoredOutcome, Trial
from unveil.core.watch import Progress

SETTINGS = {"client": "client", "training": "fedsgd", "obfuscation": "sign [x]", "attack": "rog"}


def at(done: int, *, step: int | None = None, trial: Trial | None = None) -> AuditProgress:
    attack = None if step is None else Progress(step=step, steps=8, loss=1.0, images=lambda: None)
    return AuditProgress(done=done, total=4, settings=SETTINGS, seed=7, step=attack, trial=trial)


TRIAL = Trial(
    settings=SETTINGS,
    family="quantise",
    seed=7,
    wire_bits=1,
    raw_bits=1,
    iterations=8,
    peak_mib=None,
    stop=Stop.FINISHED,
    losses=[],
    blind={},
    outcomes={ATTACK: ScoredOutcome(scores={"psnr": [20.0, 21.0]}, seconds=2.5)},
)


def printed(*standings: AuditProgress, terminal: bool) -> str:
    file = io.StringIO()
    with shown(Console(file=file, force_terminal=terminal, color_system=None, width=120)) as listener:
        for standing in standings:
            listener(standing)
    return file.getvalue()


def test_off_a_terminal_there_is_one_line_a_trial() -> None:
    text = printed(at(0), at(0, step=1), at(0, step=2), at(1, trial=TRIAL), terminal=False)
    assert text == "[1/4] client, fedsgd, sign [x], rog, seed 7: 20.5 dB, 2.5 s\n"


def test_on_a_terminal_there_are_channel_step_trials_and_time_left() -> None:
    text = printed(at(2), at(2, step=4), terminal=True)
    assert "sign [x]" in text
    assert "step 4/8" in text
    assert "2/4 trials" in text
    assert "left" in text
