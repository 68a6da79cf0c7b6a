import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.nn import BatchNorm2d, Conv2d, Linear
from torch.nn import functional as F

from instances import first_of_each
from seeds import seeded, shifted
from unveil.attacks import parse as parse_attack
from unveil.clients.models import CATALOGUE, build_model
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.protocols import Knowledge
from unveil.core.update import Update

SHAPE = (3, 16, 16)


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """Write a module of the user's into the current directory; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name, body):
        (tmp_path / f"{name}.py").write_text("from torch import nn\n" + textwrap.dedent(body))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield write
    for name in [path.stem for path in tmp_path.glob("*.py")]:
        sys.modules.pop(name, None)


def layers(model, kind):
    return [layer for layer in model.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize(("shape", "classes"), first_of_each([((1, 17, 23), 2), (SHAPE, 4)]))
def test_every_victim_fits_the_pictures_and_the_classes(name, shape, classes):
    model = build_model(name, image_shape=shape, classes=classes, seed=0)
    assert model(torch.rand(3, *shape)).shape == (3, classes)
    assert not model.training
    assert bool(layers(model, BatchNorm2d)) == (name == "resnet9")
    assert layers(model, Linear)[-1].bias is None


def test_lenet_is_the_published_one():
    model = build_model("lenet", image_shape=(3, 128, 128), classes=1000, seed=0)
    shapes = [tuple(weight.shape) for weight in model.parameters()]
    assert shapes == [(32, 3, 5, 5), (32,), (64, 32, 5, 5), (64,), (512, 65536), (1000, 512)]


def test_vgg7_has_seven_weight_layers():
    model = build_model("vgg7", image_shape=SHAPE, classes=5, seed=0)
    assert len(layers(model, (Conv2d, Linear))) == 7


def test_resnet9_is_nine_weight_layers_and_ends_in_512_features():
    model = build_model("resnet9", image_shape=(3, 32, 32), classes=7, seed=0)
    assert len(layers(model, (Conv2d, Linear))) == 9
    maps = []
    for layer in layers(model, Conv2d):
        layer.register_forward_hook(lambda _, inputs, output: maps.append(tuple(output.shape[1:])))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    expected = [(64, 32), (128, 32), (128, 16), (128, 16), (256, 16), (512, 8), (512, 4), (512, 4)]
    assert maps == [(channels, side, side) for channels, side in expected]
    assert tuple(layers(model, Linear)[0].weight.shape) == (7, 512)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_resnet9_can_be_attacked_in_either_mode(mode):
    model = build_model("resnet9", image_shape=(3, 8, 8), classes=3, seed=0)
    training = FedSGD(mode=mode)
    batch = Batch(torch.rand(2, 3, 8, 8, generator=seeded(0)), torch.tensor([2, 0]))
    update = Update(training(model, batch))
    knowledge = Knowledge(training=training, image_shape=(3, 8, 8), num_images=2, classes=3, labels=batch.labels)
    guess = parse_attack("inverting_gradients:steps=2")(model, update, knowledge, generator=seeded(1))
    assert guess.images.shape == batch.images.shape
    assert torch.isfinite(guess.images).all()


@pytest.mark.slow
def test_resnet18_ends_in_512_maps_of_8_by_8_at_128_pixels():
    model = build_model("resnet18", image_shape=(3, 128, 128), classes=7, seed=0)
    assert tuple(layers(model, Linear)[0].weight.shape) == (7, 512 * 8 * 8)
    convolutions = [layer for layer in layers(model, Conv2d) if layer.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == 18


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "precode"])  # whose loss is another each time
def test_every_victim_trains_and_can_be_attacked(name):
    model = build_model(name, image_shape=SHAPE, classes=4, seed=0)
    noise = 0.2 * torch.rand(4, *SHAPE, generator=seeded(0))
    images = (noise + torch.linspace(0, 0.8, 4).view(4, 1, 1, 1)).requires_grad_()
    loss = F.cross_entropy(model(images), torch.arange(4))
    gradient = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    (slope,) = torch.autograd.grad(sum(part.square().sum() for part in gradient), images)
    assert slope.abs().sum() > 0
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-4)
    for _ in range(25):
        optimiser.zero_grad()
        F.cross_entropy(model(images.detach()), torch.arange(4)).backward()
        optimiser.step()
    assert F.cross_entropy(model(images), torch.arange(4)) < 0.7 * loss


def test_the_seed_decides_and_the_global_random_state_stays():
    torch.manual_seed(shifted(11))
    before = torch.random.get_rng_state()
    first, again, other = (
        build_model("lenet", image_shape=SHAPE, classes=3, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


def test_a_model_of_the_users_from_the_current_directory(victim):
    name = victim(
        "mine",
        "def net(classes, image_shape, width=2): return flat(classes, image_shape)\n"
        "def flat(classes, shape): return nn.Sequential(nn.Flatten(), nn.Linear(768, classes))\n",
    )
    assert build_model(f"{name}:net", image_shape=SHAPE, classes=6, seed=0)(torch.zeros(1, *SHAPE)).shape == (1, 6)


@pytest.mark.parametrize(
    ("signature", "width", "expected"),
    [
        ("()", "9", 9),
        ("(classes=9)", "classes", 4),
        ("(*, classes)", "classes", 4),
        ("(classes=9, /)", "classes", 9),
        ("(*arguments, **settings)", "9 + len(settings)", 9),
        ("(depth=3, *, image_shape)", "depth + image_shape[0]", 6),
    ],
)
def test_a_factory_is_given_what_its_signature_names(victim, signature, width, expected):
    name = victim("named", f"def net{signature}: return nn.Sequential(nn.Flatten(), nn.Linear(768, {width}))")
    model = build_model(f"{name}:net", image_shape=SHAPE, classes=4, seed=0)
    assert model[1].out_features == expected


def test_batchnorm_has_seen_nothing_after_the_check(victim):
    name = victim("normed", "def net(): return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(768, 2))")
    model = build_model(f"{name}:net", image_shape=SHAPE, classes=2, seed=0)
    assert model[0].num_batches_tracked == 0


def test_the_example_with_torchvision(monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = build_model("examples.torchvision_resnet18:factory", image_shape=(3, 32, 32), classes=5, seed=0)
    assert layers(model, BatchNorm2d)
    white, mean = torch.ones(1, 3, 32, 32), torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    inner = (white - mean) / torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    assert torch.allclose(model(white), model[1](inner), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lennet", r"unknown model 'lennet'; did you mean 'lenet'\?"),
        (
            "transformer9000",
            r"known are lenet, precode, resnet18, resnet9, vgg7 \(a model of your own is named package.module:factory",
        ),
        (":net", r"unknown model ':net'"),
        ("nowhere.at_all:net", r"importing 'nowhere.at_all' raised ModuleNotFoundError: No module named 'nowhere'"),
        (
            "broken:net",
            r"importing 'broken' raised ZeroDivisionError: division by zero \(broken.py, line 2\); run from",
        ),
        ("victims:factori", r"module 'victims' has no factory 'factori'; did you mean 'factory'\?"),
        ("empty:net", r"module 'empty' has no factory 'net'; define a function there that returns the model"),
        ("victims:depth", r"module 'victims' has no factory 'depth'"),
        (
            "victims:factory",
            r"its factory asks for 'width', but .* model = \"victims:factory\?width=…\", or give 'width' a default",
        ),
        ("victims:positional", r"its factory asks for 'classes', but"),
        ("victims:number", r"expected the factory to return a torch.nn.Module, got int"),
        (
            "victims:fails",
            r"its factory raised RuntimeError: no weights here \(victims.py, line \d+\); call it in Python",
        ),
        ("builtins:max", r"'builtins' is Python's own and holds no model of yours"),
        ("victims:narrow", r"output does not fit the labels: .* expected shape \(2, 4\) or wider, got shape \(2, 3\)"),
        ("victims:maps", r"output does not fit the labels: .* got shape \(2, 3, 16, 16\)"),
        ("victims:pair", r"output does not fit the labels: .* got tuple"),
        (
            "victims:greys",
            r"its forward on a batch of 2 pictures of 3 x 16 x 16 raised RuntimeError: .*; change size or channels",
        ),
    ],
)
def test_what_cannot_be_built(victim, name, message):
    (Path("empty.py")).write_text("")
    victim("broken", "1 / 0")
    victim(
        "victims",
        """
        depth = 3
        class Pair(nn.Module):
            def forward(self, x): return x, x
        def factory(width, classes): ...
        def positional(classes, /): ...
        def number(): return 7
        def fails(): raise RuntimeError("no weights here\\nmany lines follow")
        def narrow(): return nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
        def maps(): return nn.Identity()
        def pair(): return Pair()
        def greys(): return nn.Conv2d(1, 2, 3)
        """,
    )
    with pytest.raises(UsageError, match=message) as caught:
        build_model(name, image_shape=SHAPE, classes=4, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "least"), [("lenet", 4), ("vgg7", 8), ("resnet9", 8)])
def test_pictures_too_small_for_the_pooling(name, least):
    with pytest.raises(UsageError, match=rf"at least {least} x {least}, got {least - 1} x 64; raise size"):
        build_model(name, image_shape=(3, least - 1, 64), classes=2, seed=0)
