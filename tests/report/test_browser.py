"""The report as a browser without a network shows it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from unveil.core.records import Trial
from unveil.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")
def test_a_browser_shows_it(folder: Path, tmp_path: Path, trial: Callable[..., Trial]) -> None:
    assert BROWSER is not None
    path = write_report(folder, [trial(obfuscation=spec, pictures=True) for spec in ("none", "fp16")])
    shot = tmp_path / "shot.png"

    def browse(*flags: str) -> str:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [BROWSER, *FLAGS, profile, *flags, path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    browse(f"--screenshot={shot}", "--window-size=1200,1600")
    with Image.open(shot) as image:
        assert image.size == (1200, 1600)
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 100  # text, badges and pictures; a blank page has one

    shown = browse("--dump-dom")
    assert "The pictures came back through the obfuscation that was tested." in shown
    assert shown.count("<img") == 3 * 8 + 2 * 6  # the wall, and the examples of the scale
