"""Factories of the user's: what they are given, and what they may not do."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from seeds import shifted
from unveil.clients.models import ModelName, build_model
from unveil.core.errors import UsageError

SHAPE = (3, 16, 16)


def built(name, shape=SHAPE, classes=4, seed=0):
    return build_model(name, image_shape=shape, classes=classes, seed=seed)


def test_arguments_stand_behind_a_question_mark(mine):
    name = mine(
        """
        def net(classes, width=2, norm=False, act="tanh", rate=0.5, widths=()):
            net = flat(classes, width)
            net.given = (width, norm, act, rate, widths)
            return net
        """
    )
    assert built(f"{name}:net?width=32&norm=true&act=relu&rate=1e-3&widths=[1, 2]").given == (
        32,
        True,
        "relu",
        1e-3,
        [1, 2],
    )
    assert built(f"{name}:net").given == (2, False, "tanh", 0.5, ())


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.slow
@seed(shifted())
@settings(deadline=None, database=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(["a", "b2", "_c", "width"]), VALUES, max_size=3))
def test_a_name_prints_as_what_it_is_read_from(arguments):
    named = ModelName(name="pkg.mod:net", arguments=arguments)
    assert ModelName.parse(str(named)) == named


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("num_classes", 4),
        ("n_classes=7", 4),
        ("*, num_classes", 4),
        ("in_channels", 3),
        ("channels", 3),
        ("channels=32", 32),
        ("image_size=224", 16),
        ("size", 16),
        ("size=5", 5),
        ("width=9", 9),
    ],
)
def test_what_names_mean_the_same_is_given(mine, signature, expected):
    key = signature.replace("*, ", "").partition("=")[0]
    name = mine(f"def net({signature}):\n    net = flat(4); net.given = {key}; return net\n")
    assert built(f"{name}:net").given == expected


def test_sides_that_differ_are_two_numbers(mine):
    name = mine("def net(image_size):\n    net = flat(4, pixels=3 * 8 * 6); net.given = image_size; return net\n")
    assert built(f"{name}:net", shape=(3, 8, 6)).given == (8, 6)


def test_the_users_argument_wins_and_another_width_may_be_wider(mine):
    name = mine("def net(classes): return flat(classes)\n")
    assert built(f"{name}:net?classes=9")[-1].out_features == 9
    with pytest.raises(UsageError, match=r"expected shape \(2, 4\) or wider, got shape \(2, 3\); give the model one"):
        built(f"{name}:net?classes=3")


def test_a_factory_that_hands_on_its_keywords_is_told_the_classes_by_the_user(mine):
    name = mine("def net(**settings): return inner(**settings)\ndef inner(num_classes=2): return flat(num_classes)\n")
    assert built(f"{name}:net?num_classes=4")[-1].out_features == 4
    with pytest.raises(UsageError, match=rf'got shape \(2, 2\); write model = "{name}:net\?num_classes=4"'):
        built(f"{name}:net")


def test_a_class_a_nested_one_and_a_ready_network(mine):
    name = mine(
        """
        class Net(nn.Module):
            def __init__(self, classes):
                super().__init__()
                self.inner = flat(classes)
            def forward(self, x): return self.inner(x)
        class Outer:
            Net = Net
        the_model = Net(5)
        """
    )
    assert built(f"{name}:Net").inner[-1].out_features == 4
    assert built(f"{name}:Outer.Net").inner[-1].out_features == 4
    one, other = built(f"{name}:the_model", seed=0), built(f"{name}:the_model", seed=1)
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    with torch.no_grad():
        one.inner[1].weight.zero_()
    assert bool(other.inner[1].weight.any())  # a copy each
    with pytest.raises(UsageError, match=r"is a network, not a function, and takes no arguments; drop them"):
        built(f"{name}:the_model?width=3")


@pytest.mark.slow
def test_what_spreads_or_compiles_a_network_is_taken_off(mine):
    name = mine(
        "def spread(classes): return nn.DataParallel(flat(classes))\n"
        "def compiled(classes): return torch.compile(flat(classes))\n"
    )
    for factory in ("spread", "compiled"):
        assert [n for n, _ in built(f"{name}:{factory}").named_parameters()] == [
            "1.weight",
            "1.bias",
            "3.weight",
            "3.bias",
        ]


def test_lazy_layers_are_finished_under_the_seed(mine):
    name = mine("def net(classes): return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(classes))\n")
    one, again, other = (built(f"{name}:net", seed=seed) for seed in (1, 1, 2))
    assert one[2].weight.shape == (4, 4 * 14 * 14)
    assert torch.equal(one[2].weight, again[2].weight)
    assert not torch.equal(one[2].weight, other[2].weight)


def test_the_process_is_as_it_was(mine, monkeypatch):
    monkeypatch.chdir(Path.cwd())
    name = mine(
        """
        import os, random, numpy
        def meddle():
            torch.manual_seed(1); numpy.random.seed(1); random.seed(1); os.chdir("/")
            torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)
        meddle()
        def net(classes):
            meddle()
            return flat(classes).float()
        """
    )
    here, torch_state = os.getcwd(), torch.random.get_rng_state()
    numbers, drawn = np.random.get_state()[1].copy(), random.getstate()
    built(f"{name}:net")
    assert os.getcwd() == here
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numbers).all()
    assert random.getstate() == drawn
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{mine}:net?width", r"expected key=value, got 'width'; write"),
        ("{mine}:net?width=1&width=2", r"'width' is given twice; keep one of them"),
        ("{mine}:net?widht=1", r"its factory has no argument 'widht'; did you mean 'width'\?"),
        ("{mine}:bare?widht=1", r"its factory has no argument 'widht'; it has none"),
        ("{mine}.py:net", r"is a file, not a module; write {mine}:net"),
        ("./{mine}:net", r"is a file, not a module; write {mine}:net"),
        ("{mine}:exits", r"its factory raised SystemExit: 3 \({mine}.py, line \d+\); call it in Python"),
        ("{mine}:complex", r"its weight '1.weight' is complex64, and obfuscations and attacks here compute with real"),
        ("{mine}:scripted", r"it is TorchScript, .* return the module as it was before torch.jit"),
        ("{mine}:traced", r"it is TorchScript"),
        ("{mine}:frozen", r"all its weights are frozen, so a client sends nothing"),
        ("{mine}:table", r"got dict; return the logits alone, from a factory of your own that wraps the model"),
        ("{mine}:meta", r"bringing it to the CPU raised NotImplementedError"),
        (".:net", r"'.' is not the name of a module"),
        ("..a:net", r"'..a' is not the name of a module"),
        ("os:system", r"'os' is Python's own and holds no model of yours"),
        ("os:system?command=touch harm", r"'os' is Python's own"),
        ("sys:exit", r"'sys' is Python's own"),
        ("antigravity:x", r"'antigravity' is Python's own"),
        ("unveil.cli.app:main", r"'unveil' is unveil's own"),
        ("torch:save", r"its factory asks for 'obj'"),
        ("torch:relu", r"module 'torch' has no factory 'relu'"),
        ("torch:nn", r"module 'torch' has no factory 'nn'; define a function there"),
        ("lenet?width=3", r"its factory has no argument 'width'; known are classes, image_shape"),
        ("lenet?classes=1000000000", r"more than 500,000,000 weights; lower size or classes"),
    ],
)
def test_what_cannot_be_built_is_a_sentence(mine, text, message):
    name = mine(
        """
        import sys
        def net(classes, width=2): return flat(classes, width)
        def bare(): return flat(4)
        def exits(): sys.exit(3)
        def complex(classes):
            net = flat(classes)
            net[1].weight = torch.nn.Parameter(net[1].weight.detach().to(torch.complex64))
            return net
        def scripted(classes): return torch.jit.script(flat(classes))
        def traced(classes): return torch.jit.trace(flat(classes), torch.zeros(1, 3, 16, 16))
        def frozen(classes): return flat(classes).requires_grad_(False)
        def meta(classes): return flat(classes).to("meta")
        def table(classes):
            net = flat(classes)
            net.register_forward_hook(lambda module, inputs, output: {"logits": output})
            return net
        """
    )
    with pytest.raises(UsageError, match=message.replace("{mine}", name)) as caught:
        built(text.replace("{mine}", name))
    assert "\n" not in str(caught.value)
    assert not Path("harm").exists()


def test_a_module_that_leaves_when_it_is_imported(mine):
    name = mine("raise SystemExit('no GPU')\n")
    with pytest.raises(UsageError, match=rf"importing '{name}' raised SystemExit: no GPU \({name}.py, line 6\)"):
        built(f"{name}:net")
    with pytest.raises(UsageError, match=rf"No module named '{name}s'; did you mean '{name}'\? Else run from"):
        built(f"{name}s:net")
