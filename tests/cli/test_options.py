"""Options that are fields of a dataclass: each setting is declared once, and declaring it needs no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields

from unveil.cli.fitting import fit
from unveil.fitting.plan import Fit


def test_every_setting_of_a_training_is_an_option_with_its_default() -> None:
    options = {option.name: option for option in fit.params}
    assert set(options) == {item.name for item in fields(Fit)} - {"command"}
    for item in fields(Fit):
        if item.default is not MISSING and item.name != "command":
            assert fit.make_context("fit", ["pictures"]).params[item.name] == item.default, item.name


def test_options_of_a_training_need_no_torch() -> None:
    code = "import sys, unveil.cli.fitting; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
