"""Whose code an unexpected error comes from: a network's that torch runs, or unveil's own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fakes import small_client
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.usercode import is_users, one_line_of, place, running


class Failing(nn.Module):
    def forward(self, x):
        raise LookupError("no weights for this\nand more")


class Once(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, slope):
        raise ArithmeticError


class Backward(nn.Module):
    def forward(self, x):
        return Once.apply(x)


def raised(function):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever it is)
        function()
    return caught.value


def line_of(text):
    return next(n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if text in line)


def test_a_networks_error_is_the_users_wherever_torch_called_it():
    forward = raised(lambda: Failing()(torch.zeros(1)))
    assert is_users(forward)
    name = Path(__file__).relative_to(Path.cwd()) if Path(__file__).is_relative_to(Path.cwd()) else __file__
    assert place(forward) == f"{name}, line {line_of('raise LookupError')}"
    assert one_line_of(forward) == f"LookupError: no weights for this ({place(forward)})"
    backward = raised(lambda: Backward()(torch.zeros(1, requires_grad=True)).sum().backward())
    assert is_users(backward)


def test_an_error_without_torch_between_is_not():
    assert not is_users(raised(lambda: [][1]))
    model, batch = small_client()
    wrong = raised(lambda: FedSGD()(model, Batch(batch.images, batch.labels.double()[:, None])))
    assert isinstance(wrong, UsageError) or not is_users(wrong)


def test_whatever_is_raised_is_one_sentence_but_ctrl_c_is_not():
    for error in (ValueError("a\nb"), SystemExit(2), KeyError(), RecursionError("deep" * 500)):
        with pytest.raises(UsageError) as caught, running("model 'x': its factory", "correct it"):
            raise error
        text = str(caught.value)
        assert text.startswith(f"model 'x': its factory raised {type(error).__name__}")
        assert text.endswith("; correct it")
        assert "\n" not in text
        assert len(text) < 500
    with pytest.raises(KeyboardInterrupt), running("x", "y"):
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match=r"^as it is$"), running("x", "y"):
        raise UsageError("as it is")


def test_it_needs_no_torch_to_be_imported():
    code = "import sys, unveil.core.usercode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
