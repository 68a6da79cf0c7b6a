"""Networks that pool their last map are peeled to exact maps, and a network that cannot be says why."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seeds import seeded
from unveil.attacks import FactorisationTuning, parse
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.factorisation import FeatureEstimate
from unveil.attacks.separation.heads.head import PooledError, read_head
from unveil.attacks.separation.mixing_matrix import exact_features
from unveil.attacks.separation.peeling.map_body import MapBody
from unveil.attacks.separation.peeling.network import Network, cut_at
from unveil.attacks.separation.peeling.ordering import ordered
from unveil.attacks.separation.peeling.peel import Peeling
from unveil.attacks.separation.peeling.top import last_convolution
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.protocols import Knowledge, LocalTraining, Obfuscation
from unveil.core.reconstruction import Reconstruction, Stop
from unveil.core.update import Update
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse as obfuscation_of

SHAPE = (3, 16, 16)
CLASSES = 6


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inside: int, out: int, stride: int, *, inplace: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.Conv2d(out, out, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out), nn.BatchNorm2d(out)])
        self.short = nn.Conv2d(inside, out, 1, stride) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norms[0](self.first(x)))
        y = self.norms[1](self.second(y))
        y = y + self.short(x)
        return self.relu(y)


class Residual(nn.Module):
    """A small ResNet that pools its last map."""

    def __init__(self, *, inplace: bool = True, last: int = 96, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.blocks = nn.Sequential(Block(12, 32, 2, inplace=inplace), Block(32, last, 2, inplace=inplace))
        self.middle = middle or nn.Identity()
        self.head = nn.Linear(last, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.blocks(self.stem(x))).mean((2, 3)))


class Plain(nn.Module):
    """Convolutions and pooling without a way around, and two Linear layers."""

    def __init__(self, between: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 5, 4, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), between()),
            *(nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.head = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def made(build: Callable[[], nn.Module]) -> nn.Module:
    """The network in eval mode, with the running statistics of other pictures and scales of both signs."""
    torch.manual_seed(0)
    net = build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.weight.data[::5] *= -1
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        net.train()(dead_leaves(64, SHAPE, generator=seeded(7)))
    return net.eval()


def batch_of(labels: list[int]) -> Batch:
    return Batch(dead_leaves(len(labels), SHAPE, generator=seeded(3)), torch.tensor(labels))


class Bottleneck(nn.Module):
    """A small ResNet of bottlenecks: the last convolution has a kernel of one place, and a way leads around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(16, 96, 3, 3, 1), nn.BatchNorm2d(96), nn.ReLU())
        self.branch = nn.Sequential(
            *(nn.Conv2d(96, 40, 1), nn.BatchNorm2d(40), nn.ReLU()),
            *(nn.Conv2d(40, 40, 3, 1, 1), nn.BatchNorm2d(40), nn.ReLU()),
            *(nn.Conv2d(40, 96, 1), nn.BatchNorm2d(96)),
        )
        self.head = nn.Linear(96, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        return self.head(F.relu(self.branch(x) + x).mean((2, 3)))


class Strided(nn.Module):
    """A bottleneck with a stride: its shortcut reads one place of four, too few to tell what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 5, 4, 2), nn.ReLU())
        self.branch = nn.Sequential(
            *(nn.Conv2d(16, 48, 1), nn.ReLU(), nn.Conv2d(48, 80, 3, 2, 1), nn.ReLU(), nn.Conv2d(80, 64, 1))
        )
        self.short = nn.Conv2d(16, 64, 1, 2)
        self.last = nn.Conv2d(64, 96, 3, 1, 1)
        self.head = nn.Linear(96, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.last(F.relu(self.branch(x) + self.short(x))).relu().mean((2, 3)))


class Inverted(nn.Module):
    """Inverted residuals with ReLU6, as in MobileNetV2, and a last convolution with a kernel of one place.

    Args:
        maps: Maps of the input of the last expansion.
        pad: Whether zeros are added by a call of their own, as in EfficientNet-Lite.
        way: Whether a way leads around another block before.
    """

    def __init__(self, *, maps: int = 40, pad: bool = False, way: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, maps, 8, 6, 2), nn.BatchNorm2d(maps), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(maps, 200, 1, bias=False), nn.BatchNorm2d(200), nn.ReLU6())
        around = [nn.ZeroPad2d(1), nn.Conv2d(200, 200, 3, groups=200, bias=False)]
        inside = [nn.Conv2d(200, 200, 3, padding=1, groups=200, bias=False)]
        self.depthwise = nn.Sequential(*(around if pad else inside), nn.BatchNorm2d(200), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(200, 60, 1, bias=False), nn.BatchNorm2d(60))
        self.branch = nn.Sequential(
            *(nn.Conv2d(maps, 90, 1, bias=False), nn.BatchNorm2d(90), nn.ReLU6()),
            *(nn.Conv2d(90, 90, 3, padding=1, groups=90, bias=False), nn.BatchNorm2d(90), nn.ReLU6()),
            *(nn.Conv2d(90, maps, 1, bias=False), nn.BatchNorm2d(maps)),
        )
        self.way = way
        self.last = nn.Sequential(nn.Conv2d(60, 160, 1, bias=False), nn.BatchNorm2d(160), nn.ReLU6())
        self.head = nn.Linear(160, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.branch(x) if self.way else x
        x = self.project(self.depthwise(self.expand(x)))
        return self.head(self.last(x).mean((2, 3)))


def peeling_of(net: nn.Module, batch: Batch) -> Peeling:
    return Peeling(
        model=net,
        gradients=FedSGD()(net, batch),
        labels=batch.labels,
        images=torch.rand((2, *SHAPE), generator=seeded(1)).double(),
        generator=seeded(0),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "labels", "deepest"),
    [
        (Residual, [0, 3], "blocks.0.first.weight"),
        (lambda: Residual(inplace=False), [0, 3], "blocks.0.first.weight"),
        (Plain, [0, 3], "body.2.weight"),
        (lambda: Plain(nn.Identity), [0, 3], "body.2.weight"),
        (Bottleneck, [0, 3], "first.0.weight"),
        (Strided, [0, 3], "branch.0.weight"),
        (Inverted, [3], "stem.0.weight"),
        (lambda: Inverted(pad=True), [3], "stem.0.weight"),
        (lambda: Inverted(way=True), [3], "stem.0.weight"),
    ],
    ids=[
        *("residual, in place", "residual", "plain", "two convolutions without gates between"),
        *(
            "bottleneck",
            "bottleneck with a stride",
            "inverted residual",
            "inverted residual with padding apart",
            "a way around",
        ),
    ],
)
def test_maps_are_exact_down_to_the_first_convolution_behind_another(
    build: Callable[[], nn.Module], labels: list[int], deepest: str
) -> None:
    net, batch = made(build).double(), batch_of(labels)
    with pytest.raises(PooledError) as pooled:
        read_head(net, SHAPE, training=FedSGD())
    head = pooled.value.head
    found = peeling_of(net, batch).deepest(head.features(batch.images), head)
    assert found.deepest.before == found.expected == deepest
    assert found.off < 1e-9
    body = MapBody(model=net, convolution=deepest, image_shape=SHAPE, feature_map=tuple(found.deepest.values.shape[1:]))  # type: ignore[arg-type]
    truth = body.features(batch.images)
    assert float((found.deepest.values.flatten(1) - truth).norm() / truth.norm()) < 1e-5


@pytest.mark.slow
def test_a_map_is_a_cut_unless_a_way_leads_around_it() -> None:
    net, pictures = made(Residual).double(), torch.rand((2, *SHAPE), generator=seeded(1)).double()
    network = Network.of(net, pictures, dict(net.named_parameters()))
    cuts = {layer.name: cut_at(network, layer.source)[0] for layer in network.layers}
    assert cuts == {
        "stem.0.weight": True,
        "blocks.0.first.weight": True,
        "blocks.0.second.weight": False,
        "blocks.0.short.weight": True,
        "blocks.1.first.weight": True,
        "blocks.1.second.weight": False,
        "blocks.1.short.weight": True,
    }


def test_patches_are_put_in_order_by_their_overlap() -> None:
    values = torch.rand((5, 4, 6), generator=seeded(0)).double()
    for side, stride in ((3, 1), (5, 1), (3, 2), (5, 2)):
        height, width = -(-4 // stride), -(-6 // stride)
        places = height * width
        patches = F.unfold(values[None], side, padding=side // 2, stride=stride)[0].T.reshape(places, 5, side, side)
        shuffled = torch.randperm(places, generator=seeded(1))
        order = ordered(patches[shuffled], height, width, stride=stride)
        assert torch.equal(shuffled[order], torch.arange(places))


def knowledge_of(batch: Batch, training: LocalTraining, obfuscation: Obfuscation) -> Knowledge:
    return Knowledge(
        training=training,
        image_shape=SHAPE,
        num_images=len(batch),
        classes=CLASSES,
        labels=batch.labels,
        obfuscation=obfuscation,
    )


def attacked(net: nn.Module, batch: Batch, *, sent: str = "none", mode: str = "eval", steps: int = 1) -> Reconstruction:
    training = FedSGD(mode=mode)  # type: ignore[arg-type]
    obfuscation = obfuscation_of(sent)
    update = obfuscation(Update(training(net, batch)), generator=seeded(0))
    knowing = knowledge_of(batch, training, obfuscation)
    return parse(f"unveil:steps={steps}")(net, update, knowing, generator=seeded(0))


@pytest.mark.slow
def test_pictures_come_back_from_a_pooled_network_and_the_network_stays_as_it_was() -> None:
    net, batch = made(Residual), batch_of([0, 3])
    before = copy.deepcopy(net.state_dict())
    guess = attacked(net, batch, steps=30)
    assert guess.stop is Stop.FINISHED
    assert float(psnr(batch.images, guess.images).mean()) > 17  # 21.9; matched updates give 11.6
    assert "peeled down to the input of blocks.0.first.weight, a map of 12 x 8 x 8" in guess.notes[0]
    assert "Certificate: behind singular value 2 of the gradient of head.weight the next is" in guess.notes[1]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


class OnlyFloat32(nn.Module):
    """A network that adds a constant which is not one of its buffers to its pictures, and insists on float32."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = Residual()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        return self.inside(x)


class Overlapless(nn.Module):
    """Neither the patches of the last convolution overlap nor those of the one before it."""

    def __init__(self, last: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 48, 4 // last, 4 // last, groups=groups), nn.ReLU()),
            *(nn.Conv2d(48, 96, last, last), nn.ReLU()),
        )
        self.head = nn.Linear(96, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Tokens(nn.Module):
    """Tokens with LayerNorm, whose weights have one type only, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 24, 4, 4), nn.LayerNorm(24), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "labels", "settings", "reason"),
    [
        (
            Residual,
            [0, 3],
            {"mode": "train"},
            "runs BatchNorm in train mode, where its images depend on each other, and keeps",
        ),
        (
            Residual,
            [0, 3],
            {"sent": "qsgd:levels=2,norm=max"},
            "of its length away from a gradient; gates are searched up to 60%",
        ),
        (Plain, [0, 0, 0, 0], {}, "do not tell the images of one class apart"),
        (Residual, [0, 1, 2, 3, 4, 5], {}, "tells at most 5 images apart, and the batch has 6"),
        (lambda: Residual(last=6), [0, 3], {}, "has 8 places in the batch and only 6 channels with 54 equations each"),
        (lambda: Residual(middle=nn.Tanh()), [0, 3], {}, "not the mean over a map behind gates of 0 and 1"),
        (lambda: Residual(middle=nn.Hardswish()), [0, 3], {}, "not the mean over a map behind gates of 0 and 1"),
        (Overlapless, [0, 3], {}, "but not their order: the patches of body.2.weight do not overlap"),
        (lambda: Overlapless(2), [0, 3], {}, "patches of the last convolution (body.4.weight) do not overlap"),
        (lambda: Overlapless(1, 16), [0, 3], {}, "what comes before body.4.weight is no convolution with gates"),
        (lambda: Inverted(maps=12), [0, 3], {}, "expand.0.weight gives 12 equations for 18 unknowns"),
        (OnlyFloat32, [0, 3], {}, "does not run in float64"),
        (Tokens, [0, 3], {}, "no learned position embeddings that are added to them"),
    ],
)
def test_a_network_that_cannot_be_peeled_says_why_and_updates_are_matched(
    build: Callable[[], nn.Module], labels: list[int], settings: dict[str, str], reason: str
) -> None:
    guess = attacked(made(build), batch_of(labels), **settings)  # type: ignore[arg-type]
    assert reason in guess.notes[0]
    assert " ".join(guess.notes).count("The attack matched updates instead.") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("build", "labels"), [(Residual, [2, 2]), (Residual, [1, 1, 4, 1]), (Plain, [2, 2])])
def test_images_of_one_class_have_their_own_features(
    build: Callable[[], nn.Module], labels: list[int], kind: torch.dtype
) -> None:
    net, batch = made(build).double(), batch_of(labels)
    with pytest.raises(PooledError) as pooled:
        read_head(net, SHAPE, training=FedSGD())
    head = pooled.value.head
    truth, update = head.features(batch.images), FedSGD()(net, batch)
    gradients = [update[name].to(kind).double() for name in head.weights]
    found = exact_features(head, gradients, batch.labels, kind=kind, tuning=FactorisationTuning(), generator=seeded(0))
    for label in set(labels):  # within a class they may have changed places
        distances = torch.cdist(found[batch.labels == label], truth[batch.labels == label])
        assert float((distances.amin(0) / truth.norm(dim=1).mean()).max()) < 1e-4
        assert sorted(distances.argmin(0).tolist()) == list(range(len(distances)))


@pytest.mark.slow
def test_images_of_one_class_are_peeled() -> None:
    net = made(Residual)
    guess = attacked(net, batch_of([3, 3]), steps=1)
    assert "peeled down to the input of blocks.0.first.weight, a map of 12 x 8 x 8" in guess.notes[0]


def test_features_without_errors_have_the_noise_of_their_covariance() -> None:
    exact = FeatureEstimate(torch.ones(2, 5), torch.zeros(2, 0), torch.zeros(1, 2, 2), 0.0)
    assert exact.noise == 0.0
    noisy = FeatureEstimate(
        torch.ones(2, 5), torch.tensor([[0.0], [1.0]]), torch.diag(torch.tensor([9.0, 4.0]))[None], 0.0
    )
    assert noisy.noise == 4.0


class Narrow(nn.Module):
    """ReLU6 behind BatchNorm whose channels are open in ranges that are wide, narrow and far away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 9, 3, 2, 1), nn.BatchNorm2d(9), nn.Linear(9, CLASSES)
        nn.init.constant_(self.norm.weight, 1.0)
        with torch.no_grad():
            self.norm.weight[:3] = torch.tensor([200.0, 0.01, -300.0])
            self.norm.bias[:4] = torch.tensor([-50.0, -6.0, 3000.0, 20.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu6(self.norm(self.conv(x))).mean((2, 3)))


def test_the_slope_of_a_gate_is_found_however_narrow_or_far_away_it_is_open() -> None:
    torch.manual_seed(0)
    net = Narrow().double().eval()
    network = Network.of(net, torch.rand((2, *SHAPE), generator=seeded(1)).double(), dict(net.named_parameters()))
    with pytest.raises(PooledError) as pooled:
        read_head(net, SHAPE, training=FedSGD())
    last = last_convolution(network, pooled.value.head)
    norm = net.norm
    torch.testing.assert_close(last.slope, (norm.weight / (norm.running_var + norm.eps).sqrt()).detach() / 64)
