"""`unveil check FILE`: pictures, layers, mode, loss and time, without a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from unveil.cli.app import main
from unveil.cli.checking import loss_in_words
from unveil.clients.training import parse

AUDIT = """
obfuscations = ["sign"]
controls = ["labels only"]

[[client]]
name = "mine"
images = "photos"
size = 16
batch = 2
training = "fedsgd:mode=train,reduction=sum,label_smoothing=0.1"

[[attack]]
name = "rog"
steps = 2
"""


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), (80 * number, 200, 0)).save(tmp_path / "photos" / label / f"{number}.png")
    (tmp_path / "audit.toml").write_text(AUDIT, encoding="utf-8")
    return tmp_path


def checked(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["check", "audit.toml", *options])
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ("fedsgd:loss=bce", "a cross-entropy of a sigmoid for each class, mean over the pictures"),
        ("fedavg:steps=1,lr=0.1,loss=mse,reduction=sum", "squared error of the scores, sum over the pictures"),
    ],
)
def test_it_names_the_loss(training: str, words: str) -> None:
    assert loss_in_words(parse(training)) == words


@pytest.mark.slow
def test_it_says_what_would_run_and_runs_nothing(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(audit.rglob("*"))
    code, out, _ = checked(capsys)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "photos: 6 pictures read, 0 cannot be used"
    assert lines[1] == "client mine: batch of 2 pictures of 3 x 16 x 16, 2 classes"
    assert lines[2].endswith(": train mode, cross-entropy with label smoothing 0.1, sum over the pictures")
    # LeNet by hand: 32*3*25 + 32 + 64*32*25 + 64 + 512*64*4*4 + 2*512
    assert lines[3] == "  model lenet: 4 layers with weights, 579,008 numbers"
    assert lines[4] == "    0  Conv2d  32 x 3 x 5 x 5, 32"
    assert "2 trials, each with 1 control: 1 client x 1 threat model x 2 obfuscations x 1 attack x 1 seed" in lines
    assert re.match(r"About .+ and [\d.]+ [MG]iB of memory on this machine", lines[-1])
    assert lines[-1].endswith("Start it with: unveil audit audit.toml")
    assert sorted(audit.rglob("*")) == before


def test_every_picture_that_cannot_be_used_is_named(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (audit / "photos/cat/0.png").write_bytes(b"")
    (audit / "photos/dog/2.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    code, out, err = checked(capsys)
    assert code == 2
    assert out == "photos: 6 pictures read, 2 cannot be used\n"
    first, second, last = err.splitlines()
    assert first.startswith("picture 'photos/cat/0.png' cannot be read")
    assert second.startswith("picture 'photos/dog/2.png' cannot be read")
    assert last == "Error: 2 pictures cannot be used, named above; repair or remove what is named"


def test_what_an_audit_refuses_a_check_refuses(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = checked(capsys, "--set", "client.0.modle=lenet")
    assert code == 2
    assert "did you mean 'model'?" in err
