"""Networks are cut where they can be, features are found at their places, and reasons are true."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seeds import seeded, shifted
from unveil.attacks.presets import parse
from unveil.attacks.separation.heads.head import NoHeadError, read_head
from unveil.attacks.separation.heads.places import read_places
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.network import Mode
from unveil.core.protocols import Knowledge
from unveil.core.reconstruction import Reconstruction
from unveil.core.update import Update
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse as obfuscation_of

SHAPE = (3, 8, 8)
CLASSES = 5
CHANNELS = 6
FLAT = CHANNELS * 16


def body() -> list[nn.Module]:
    return [nn.Conv2d(3, CHANNELS, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]


def tail(inside: int = FLAT, *middle: nn.Module) -> list[nn.Module]:
    return [nn.Linear(inside, 20), *middle, nn.ReLU(), nn.Linear(20, CLASSES)]


class Flattening(nn.Module):
    """A way of its own from the map to a row."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, *self.axes).reshape(len(x), -1)


class Refolded(nn.Module):
    """The pictures go flat through a Linear layer, are folded again, and then through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.body, self.tail = nn.Linear(192, 192), nn.Sequential(*body()), nn.Sequential(*tail())

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(self.mix(x.flatten(1)).reshape(-1, *SHAPE)).flatten(1))


class Joined(nn.Module):
    """Two branches, each flattened, then joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(*body()), nn.Sequential(*body())
        self.rest = nn.Sequential(*tail(2 * FLAT))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(torch.cat([self.a(x).flatten(1), self.b(x).flatten(1)], 1))


class Skipping(nn.Module):
    """Its scores also depend on the picture beside the last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.beside = nn.Sequential(*body()), nn.Conv2d(3, CLASSES, 8)
        self.f, self.g = nn.Linear(FLAT, 20), nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.g(F.relu(self.f(self.body(x).flatten(1)))) + self.beside(x).flatten(1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.f = nn.Sequential(*body(), nn.Flatten(), nn.Linear(FLAT, CLASSES)), nn.Linear(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(torch.tanh(self.f(self.body(x))))


class Recurrent(nn.Module):
    """Reads the rows of its map one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.rnn, self.f = nn.Sequential(*body()), nn.GRU(4 * CHANNELS, 30), nn.Linear(30, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.rnn(self.body(x).permute(2, 0, 1, 3).flatten(2))[0][-1])


MAPPED = {
    "flattened": lambda: nn.Sequential(*body(), nn.Flatten(), *tail()),
    "last axis first": lambda: nn.Sequential(*body(), Flattening((2, 3, 1)), *tail()),
    "columns first": lambda: nn.Sequential(*body(), Flattening((1, 3, 2)), *tail()),
    "layer norm": lambda: nn.Sequential(*body(), nn.Flatten(), nn.LayerNorm(FLAT), *tail()),
    "sigmoid": lambda: nn.Sequential(*body(), nn.Flatten(), nn.Sigmoid(), *tail()),
    "dropout": lambda: nn.Sequential(*body(), nn.Flatten(), nn.Dropout(0.5), *tail()),
    "in place": lambda: nn.Sequential(*body(), nn.Flatten(), nn.ReLU(inplace=True), *tail()),
    "adaptive pooling": lambda: nn.Sequential(*body(), nn.AdaptiveAvgPool2d(7), nn.Flatten(), *tail(CHANNELS * 49)),
    "joined branches": Joined,
    "no convolution": lambda: nn.Sequential(nn.Flatten(), *tail(192)),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", MAPPED)
def test_each_feature_is_found_at_its_place(name: str, mode: Mode) -> None:
    """A place of the map sees the pixels around it: nothing of the picture's far side reaches it."""
    torch.manual_seed(shifted(0))
    head = read_head(MAPPED[name](), SHAPE, training=FedSGD(mode=mode), draws=None)
    channels, height, width = head.feature_map
    images = torch.rand((2, *SHAPE), generator=seeded(1), requires_grad=True)
    maps = head.as_maps(head.features(images))
    assert maps.shape == (2, channels, height, width)
    corner = maps[0, :, 0, 0].square().sum()
    (slope,) = torch.autograd.grad(corner, images)
    near, far = slope[0, :, :4, :4].abs().sum(), slope[0, :, 4:, 4:].abs().sum()
    assert float(far) <= (0.6 if name == "layer norm" else 1e-6) * float(near)  # a normalisation mixes a little
    assert float(near) > 0
    assert sorted(head.places.order.tolist()) == list(range(head.places.order.numel()))


def frozen_head() -> nn.Module:
    net = nn.Sequential(*body(), nn.Flatten(), *tail())
    net[-1].requires_grad_(False)
    return net


def computed_head() -> nn.Module:
    net = nn.Sequential(*body(), nn.Flatten(), *tail())
    nn.utils.parametrizations.weight_norm(net[-1])
    return net


REASONS = {
    "pools its last map": lambda: nn.Sequential(
        *body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES)
    ),
    "does not end in a Linear layer": lambda: nn.Sequential(nn.Conv2d(3, CLASSES, 8), nn.Flatten()),
    "is frozen": frozen_head,
    "is computed from other parameters": computed_head,
    "used more than once": Twice,
    "in another way than through": Skipping,
    "is not a map whose entries": Recurrent,
}


@pytest.mark.slow
@pytest.mark.parametrize("reason", REASONS)
def test_a_network_that_cannot_be_cut_says_why(reason: str) -> None:
    torch.manual_seed(shifted(0))
    model = REASONS[reason]()
    with pytest.raises(NoHeadError, match=reason) as said:
        read_head(model, SHAPE, training=FedSGD())
    others = [text for text in REASONS if text != reason]
    assert not any(text in str(said.value) for text in others)
    batch = Batch(torch.rand((2, *SHAPE), generator=seeded(1)), torch.tensor([3, 1]))
    knowledge = Knowledge(training=FedSGD(), image_shape=SHAPE, num_images=2, classes=CLASSES, labels=batch.labels)
    guess = parse("unveil:steps=2")(model, Update(FedSGD()(model, batch)), knowledge, generator=seeded())
    said_why = any(reason in note and "matched updates instead" in note for note in guess.notes)
    assert said_why or any("separated at the network's first Linear layer" in note for note in guess.notes)


def test_what_was_not_sent_is_not_used() -> None:
    torch.manual_seed(shifted(0))
    model = nn.Sequential(*body(), nn.Flatten(), *tail())
    last = {"6.weight", "6.bias"}
    with pytest.raises(NoHeadError, match="does not hold the network's last Linear layer"):
        read_head(model, SHAPE, training=FedSGD(), sent={"4.weight", "0.weight"})
    assert read_head(model, SHAPE, training=FedSGD(), sent=last | {"4.weight"}).weights == ("4.weight", "6.weight")
    with pytest.raises(NoHeadError, match="is not a map"):
        read_head(model, SHAPE, training=FedSGD(), sent=last)


HEADS = {
    "batch norm": lambda: tail(FLAT, nn.BatchNorm1d(20)),
    "dropout": lambda: tail(FLAT, nn.Dropout(0.5)),
    "tanh": lambda: [nn.Linear(FLAT, 20), nn.Tanh(), nn.Linear(20, CLASSES)],
    "group norm": lambda: tail(FLAT, nn.GroupNorm(4, 20)),
    "three layers": lambda: [nn.Linear(FLAT, 30), nn.ReLU(inplace=True), *tail(30)],
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", HEADS)
def test_errors_at_the_true_features_are_those_of_autograd(name: str, mode: Mode) -> None:
    torch.manual_seed(shifted(0))
    model = nn.Sequential(*body(), nn.Flatten(), *HEADS[name]())
    images, labels = torch.rand((4, *SHAPE), generator=seeded(1)), torch.tensor([0, 3, 2, 4])
    training = FedSGD(mode=mode)
    head = read_head(model, SHAPE, training=training, draws=7)
    features = head.features(images).detach()
    update = training(model, Batch(images, labels), generator=torch.Generator().manual_seed(7))
    for layer in head.layers(features, labels):
        torch.testing.assert_close(layer.errors.T @ layer.inputs, update[layer.weight], atol=1e-6, rtol=1e-4)
    for key, value in head.simulate(training, features, labels).items():
        if key in head.weights:
            torch.testing.assert_close(value, update[key], atol=1e-6, rtol=1e-4)


class Permuted(nn.Module):
    """The same network with its map flattened in another order, and its weight put in that order."""

    def __init__(self, plain: nn.Sequential) -> None:
        super().__init__()
        self.body, self.flat, self.tail = plain[:3], Flattening((2, 3, 1)), plain[4:]
        order = torch.arange(FLAT).reshape(1, CHANNELS, 4, 4)
        with torch.no_grad():
            self.tail[0].weight.copy_(self.tail[0].weight[:, self.flat(order)[0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.flat(self.body(x)))


class Named(nn.Module):
    """The same network, its layers declared in another order and called as functions."""

    def __init__(self, plain: nn.Sequential) -> None:
        super().__init__()
        self.last, self.first, self.conv = plain[6], plain[4], plain[0]

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu_(self.conv(x)), 2).view(len(x), -1)
        h = F.linear(weight=self.first.weight, input=h, bias=self.first.bias)
        return F.linear(h.relu_(), self.last.weight, self.last.bias)


class Typed(nn.Module):
    """The same network, all of it or the layers behind its map, in another type."""

    def __init__(self, plain: nn.Sequential, kind: torch.dtype, first: int) -> None:
        super().__init__()
        self.body, self.tail, self.kind = plain[:first], plain[first:].to(kind), kind

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(x).to(self.kind)).float()


def attacked(
    change: Callable[[nn.Sequential], nn.Module], images: Tensor, spec: str, obfuscation: str
) -> Reconstruction:
    """What an attack makes of the update that a changed network gives for two pictures."""
    labels = torch.tensor([3, 1])
    torch.manual_seed(shifted(0))
    model = change(nn.Sequential(*body(), nn.Flatten(), *tail())).eval()
    knowledge = Knowledge(
        training=FedSGD(),
        image_shape=SHAPE,
        num_images=2,
        classes=CLASSES,
        labels=labels,
        obfuscation=obfuscation_of(obfuscation),
    )
    update = obfuscation_of(obfuscation)(Update(FedSGD()(model, Batch(images, labels))), generator=seeded(3))
    return parse(spec)(model, update, knowledge, generator=seeded(2))


def same(net: nn.Sequential) -> nn.Module:
    return net


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        Permuted,
        Named,
        nn.DataParallel,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: Typed(net, torch.float64, 0),
        lambda net: Typed(net, torch.float64, 4),
    ],
    ids=["permuted", "by name", "DataParallel", "compiled", "float64", "float64 head"],
)
@pytest.mark.parametrize("spec", ["unveil:steps=20", "inverting_gradients:steps=5"])
def test_the_result_does_not_depend_on_which_of_two_equal_networks_is_given(
    other: Callable[[nn.Sequential], nn.Module], spec: str
) -> None:
    images = torch.rand((2, *SHAPE), generator=seeded(1))
    found = [attacked(change, images, spec, "none") for change in (same, other)]
    off = (found[0].images - found[1].images).square().mean().sqrt()
    moved = (found[0].images - 0.5).square().mean().sqrt()
    assert float(off) < 0.2 * float(moved)  # rounding goes other ways, and a search magnifies it
    assert found[0].notes == found[1].notes


@pytest.mark.slow
@pytest.mark.parametrize("obfuscation", ["none", "topk:density=0.2"])
@pytest.mark.parametrize("first", [0, 4], ids=["network", "head"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_a_network_of_half_precision_gives_away_as_much(kind: torch.dtype, first: int, obfuscation: str) -> None:
    pictures = load_pictures("builtin", count=2, size=8)
    found = []
    for change in (same, lambda net: Typed(net, kind, first)):
        guess = attacked(change, pictures.images, "unveil:steps=20", obfuscation)
        assert "The batch was separated into single images" in " ".join(guess.notes)
        found.append(float(psnr(pictures.images, align(pictures.images, guess).images).mean()))
    assert found[1] > found[0] - 1.5


def test_the_map_is_found_where_the_pictures_go_through_a_linear_layer_first() -> None:
    torch.manual_seed(0)
    net = Refolded().eval()
    places, _ = read_places(net, net.tail[0].weight, torch.rand(2, *SHAPE, generator=seeded(0)))
    assert places is not None
    assert places.feature_map == (CHANNELS, 4, 4)
    assert torch.equal(places.order, torch.arange(FLAT))
