"""BatchNorm in train mode with sent statistics: exact statistics, exact slopes, exact maps, and sentences where not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fakes import convolution_on
from seeds import seeded
from unveil.attacks import parse
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.frozen.coupling import Coupling, solve_coupled
from unveil.attacks.separation.frozen.couplings import couplings_of
from unveil.attacks.separation.frozen.difference_map import find_binary
from unveil.attacks.separation.frozen.freezing import frozen
from unveil.attacks.separation.frozen.statistics import batch_statistics, frozen_statistics
from unveil.attacks.separation.frozen.unmixing import Mixture, are_determined, map_of_patches
from unveil.attacks.separation.heads.head import PooledError, read_head
from unveil.attacks.separation.peeling.equations import weight_gradient
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.peel import Peeling
from unveil.attacks.separation.peeling.peeled_map import PeeledMap
from unveil.attacks.separation.peeling.watch import Convolution, convolutions_of
from unveil.audits.pipeline import play
from unveil.clients.client import Client
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.protocols import LocalTraining
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse as obfuscation_of

SHAPE = (3, 16, 16)
SENT = FedSGD(mode="train", buffers="sent")


class Block(nn.Module):
    """Two convolutions, of which one has a bias, and a way around them."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inside, out, 3, 2, 1, bias=False), nn.Conv2d(out, out, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out), nn.BatchNorm2d(out, momentum=None)])
        self.short = nn.Sequential(nn.Conv2d(inside, out, 1, 2), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(y)) + self.short(x)).relu()


class Residual(nn.Module):
    """A small ResNet with BatchNorm that pools its last map."""

    def __init__(self, last: int = 96) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.blocks = nn.Sequential(Block(12, 32), Block(32, last))
        self.head = nn.Linear(last, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def client_of(
    build: Callable[[], nn.Module] = Residual, *, training: LocalTraining = SENT, double: bool = True
) -> Client:
    """A client of two pictures whose BatchNorm layers have scales of both signs and statistics of other pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                module.weight.data[::5] *= -1
                nn.init.normal_(module.bias, 0, 0.3)
        net.train()(torch.rand(3, *SHAPE))
    images = dead_leaves(2, SHAPE, generator=seeded(3))
    net, images = (net.double(), images.double()) if double else (net, images)
    return Client(net.eval(), images, torch.tensor([0, 3]), training=training)


def normalised(client: Client) -> dict[str, Tensor]:
    """What each BatchNorm layer gets from the client's own batch, by the layer's name."""
    net, seen = copy.deepcopy(client.model).train(), {}
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].detach()))
    net(client.images)
    return seen


def test_the_statistics_of_one_step_are_those_of_the_batch() -> None:
    client = client_of()
    update, seen = client.update(), normalised(client)
    assert update.buffers is not None
    found = batch_statistics(client.model, update.buffers)
    exact = frozen_statistics(client.model, update, client.knowledge())
    assert list(found) == list(exact) == list(seen)
    for name, x in seen.items():
        torch.testing.assert_close(found[name].mean, x.mean((0, 2, 3)))
        torch.testing.assert_close(found[name].unbiased, x.var((0, 2, 3)))
        torch.testing.assert_close(exact[name].variance, x.var((0, 2, 3), unbiased=False))
        assert exact[name].values == x[:, 0].numel()
        assert found[name].steps == 1


@pytest.mark.parametrize("momentum", [0.2, None])
def test_the_statistics_of_two_steps_are_a_mean_in_which_the_second_weighs_more(momentum: float | None) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(3, momentum=momentum), nn.Flatten(), nn.Linear(3 * 256, 6))

    client = client_of(build, training=FedAvg(steps=2, batch_size=1, lr=1e-3, mode="train", buffers="sent"))
    update = client.update()
    assert update.buffers is not None
    (found,) = batch_statistics(client.model, update.buffers).values()
    means = client.images.mean((2, 3))
    share = 0.5 if momentum is None else 0.2 / (0.2 + 0.2 * 0.8)
    torch.testing.assert_close(found.mean, share * means[1] + (1 - share) * means[0])
    assert found.steps == 2


def test_frozen_slopes_are_those_of_train_mode() -> None:
    client = client_of()
    update = client.update()
    net = frozen(client.model, frozen_statistics(client.model, update, client.knowledge()), update.tensors)
    own = copy.deepcopy(client.model).train()
    found, expected = [], []
    for network, into in ((net, found), (own, expected)):
        images = client.images.clone().requires_grad_()
        loss = F.cross_entropy(network(images), client.labels)
        into += torch.autograd.grad(loss, [images, *network.parameters()])
    names = ["images", *(name for name, _ in own.named_parameters())]
    assert names[1:] == [name for name, _ in net.named_parameters()]
    for name, a, b in zip(names, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)


def test_a_picture_no_longer_depends_on_the_others() -> None:
    client = client_of()
    update = client.update()
    net = frozen(client.model, frozen_statistics(client.model, update, client.knowledge()), update.tensors)
    assert torch.allclose(net(client.images)[:1], net(client.images[:1]), rtol=1e-12)


def test_gates_are_binary_points_of_a_space() -> None:
    entries, dimensions, planted = 120, 24, 6
    patterns = (torch.rand(planted, entries, generator=seeded(0)) < 0.6).double()
    shift = torch.randn(entries, generator=seeded(1)).double()
    more = torch.randn(dimensions - planted, entries, generator=seeded(2)).double()
    found = find_binary(
        torch.cat([patterns - shift, more]).T,
        shift,
        0.5 + torch.rand(entries, generator=seeded(3)).double(),
        count=planted,
        tries=100,
        moves=2000,
        fits=1e-8,
        generator=seeded(4),
    )
    assert {tuple(row.tolist()) for row in found} == {tuple(row.tolist()) for row in patterns}


def convolution(
    inside: int, out: int, side: int, kernel: int, stride: int
) -> tuple[Convolution, Tensor, Coupling, Tensor]:
    """A convolution in front of BatchNorm, its input for three images, its coupling, and its slopes in eval mode."""
    padding = kernel // 2
    x = torch.randn(3, inside, side, side, generator=seeded(0)).double().clamp_min(0)
    weight = torch.randn(out, inside, kernel, kernel, generator=seeded(1)).double()
    made = F.conv2d(x, weight, stride=stride, padding=padding)
    layer = convolution_on(x, weight, stride=stride, padding=padding)
    outputs = made.detach().requires_grad_()
    slopes = torch.randn(made.shape, generator=seeded(2)).double()
    norm = nn.BatchNorm2d(out).double().train()
    (trained,) = torch.autograd.grad((norm(outputs) * slopes).sum(), outputs)
    mean, deviation = made.mean((0, 2, 3)), (made.var((0, 2, 3), unbiased=False) + norm.eps).sqrt()
    z = (made - mean[:, None, None]) / deviation[:, None, None]
    count = made[:, 0].numel()
    coupling = Coupling(
        rate=(slopes * z).sum((0, 2, 3)) / count / deviation**2,
        shift=slopes.sum((0, 2, 3)) / count / deviation,
        mean=mean,
    )
    evaluated = slopes / deviation[:, None, None]
    torch.testing.assert_close(coupling.slopes(layer, x, evaluated), trained)
    torch.testing.assert_close(coupling.evaluated(layer, x, trained), evaluated)
    return layer, x, coupling, evaluated


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (4, 2)])
def test_patches_follow_in_closed_form_where_channels_are_many(side: int, stride: int) -> None:
    layer, x, coupling, evaluated = convolution(6, 60, side, 3, stride)
    assert are_determined(layer, 3)
    gradient = weight_gradient(layer, x, coupling.slopes(layer, x, evaluated))
    rows = evaluated.flatten(2).transpose(1, 2).flatten(0, 1)
    patches = Mixture.of(layer, gradient, coupling, len(rows)).patches(rows)
    truth = F.unfold(x, 3, padding=1, stride=stride).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(patches, truth - truth.mean(0), rtol=1e-6, atol=1e-8)
    found = map_of_patches(layer, patches, 3)
    if stride == 1:  # with a stride of 2 the mean of some entries is in no patch beside padding
        torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-8)
    solved, _ = solve_coupled(layer, gradient, evaluated, coupling, start=found)
    torch.testing.assert_close(solved, x, rtol=1e-4, atol=1e-4)


def test_a_convolution_with_few_channels_or_entries_is_not_determined_in_closed_form() -> None:
    layer, *_ = convolution(6, 60, 3, 3, 1)
    assert not are_determined(layer, 4)  # 36 places, 60 channels
    assert not are_determined(convolution(6, 60, 3, 1, 1)[0], 3)  # 27 places, 6 entries of a patch


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0, 1])
def test_an_input_is_solved_where_slopes_depend_on_it_and_a_wrong_gate_is_read_again(wrong: int) -> None:
    layer, x, coupling, evaluated = convolution(12, 48, 4, 3, 1)
    trained = coupling.slopes(layer, x, evaluated)
    gradient = weight_gradient(layer, x, trained)
    given = evaluated.clone()
    given[0, 5, 1, 2] *= 1 - wrong
    found, slopes = solve_coupled(layer, gradient, given, coupling)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slopes, trained, rtol=1e-3, atol=1e-4)


def peeled(client: Client) -> tuple[PeeledMap, nn.Module]:
    """The deepest map of a client's batch, and the network with its statistics frozen."""
    update = client.update()
    statistics = frozen_statistics(client.model, update, client.knowledge())
    net = frozen(client.model, statistics)
    with pytest.raises(PooledError) as pooled:
        read_head(net, SHAPE, training=SENT)
    head, probes = pooled.value.head, torch.rand((2, *SHAPE), generator=seeded(1)).double()
    couplings = couplings_of(net, probes, convolutions_of(net, probes), update.tensors)
    assert len(couplings) == 7
    peeling = Peeling(
        model=net,
        gradients=dict(update.tensors),
        labels=client.labels,
        images=probes,
        generator=seeded(0),
        running=frozen(client.model, statistics, update.tensors),
        couplings=couplings,
    )
    return peeling.deepest(head.features(client.images), head), net


@pytest.mark.slow
def test_maps_are_exact_down_to_the_first_convolution_behind_another() -> None:
    client = client_of()
    found, net = peeled(client)
    assert found.deepest.before == "blocks.0.first.weight"
    assert found.off < 1e-4
    with torch.no_grad():
        truth = net.get_submodule("stem")(client.images)
    assert float((found.deepest.values - truth).norm() / truth.norm()) < 1e-3


@pytest.mark.slow
def test_too_many_places_are_told() -> None:
    with pytest.raises(CannotPeelError, match="8 places in the batch, more than half of its 14 channels: in train mod"):
        peeled(client_of(lambda: Residual(last=14)))


@pytest.mark.slow
def test_pictures_come_back_from_train_mode_and_the_network_stays_as_it_was() -> None:
    client = client_of(double=False)
    before = copy.deepcopy(client.model.state_dict())
    guess = play(client, obfuscation_of("none"), parse("unveil:steps=30"), seed=0).attack
    assert "peeled down to the input of blocks.0.first.weight" in guess.notes[0]
    assert float(psnr(client.images, guess.images).mean()) > 15
    assert all(torch.equal(value, before[name]) for name, value in client.model.state_dict().items())


@pytest.mark.parametrize(
    ("build", "training", "reason"),
    [
        (Residual, FedSGD(mode="train"), "in train mode, where its images depend on each other, and keeps the stat"),
        (Residual, FedAvg(steps=2, lr=0.1, mode="train", buffers="sent"), "are those of 2 runs together"),
        (
            lambda: nn.Sequential(
                nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.Flatten(), nn.Linear(3 * 256, 6)
            ),
            SENT,
            "The statistics or the slopes of 1 were not sent",
        ),
        (
            lambda: nn.Sequential(
                nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(3 * 256, 6)
            ),
            SENT,
            "The statistics or the slopes of 1 were not sent",
        ),
    ],
)
def test_statistics_that_are_not_known_are_told(
    build: Callable[[], nn.Module], training: LocalTraining, reason: str
) -> None:
    client = client_of(build, training=training)
    with pytest.raises(CannotPeelError, match=reason):
        frozen_statistics(client.model, client.update(), client.knowledge())


def test_nothing_is_frozen_in_eval_mode_or_without_batchnorm() -> None:
    client = client_of(training=FedSGD())
    assert frozen_statistics(client.model, client.update(), client.knowledge()) == {}
    plain = client_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 6)), training=FedSGD(mode="train"))
    assert frozen_statistics(plain.model, plain.update(), plain.knowledge()) == {}
