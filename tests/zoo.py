"""Small networks of many kinds, each of which does something that a client's code may do; pictures are 3 x 8 x 8."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from seeds import shifted

SIZE, CLASSES = 8, 5
FLAT = 4 * SIZE * SIZE

Forward = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """Two convolutions, then two Linear layers, with a forward of its own."""

    def __init__(self, forward: Forward, *, bias: bool = True, **more: nn.Module) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.f1, self.f2 = nn.Linear(FLAT, 24, bias=bias), nn.Linear(24, CLASSES, bias=bias)
        for name, module in more.items():
            setattr(self, name, module)
        self.how = forward

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.c2(F.relu(self.c1(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def plain(net: nn.Module, x: Tensor) -> Tensor:
    return net.f2(F.relu(net.f1(net.body(x).flatten(1))))


def sequential(*middle: nn.Module, act: nn.Module | None = None, bias: bool = True) -> nn.Module:
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten()]
    tail = [nn.Linear(FLAT, 24, bias=bias), *middle, act or nn.ReLU(), nn.Linear(24, CLASSES, bias=bias)]
    return nn.Sequential(*body, *tail)


def with_norm(old: Callable[..., object], *places: int) -> nn.Module:
    net = sequential()
    for place in places:
        old(net[place])
    return net


def pruned() -> nn.Module:
    net = sequential()
    prune.l1_unstructured(net[3], "weight", 0.5)
    return net


def tied() -> nn.Module:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.f = nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, CLASSES)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.f(torch.tanh(self.b(torch.tanh(self.a(x.flatten(1))))))

    return Tied()


class Bare(nn.Module):
    """Parameters without layers."""

    def __init__(self, *, keyword: bool) -> None:
        super().__init__()
        self.keyword = keyword
        self.w = nn.Parameter(torch.randn(24, 192) / 14)
        self.v = nn.Parameter(torch.randn(CLASSES, 24) / 5)
        self.b = nn.Parameter(torch.randn(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(x.flatten(1) @ self.w.T)
        return F.linear(bias=self.b, weight=self.v, input=h) if self.keyword else F.linear(h, self.v, self.b)


def frozen(*names: str) -> nn.Module:
    net = Net(plain)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith(names))
    return net


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.f = nn.GRU(24, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.rnn(x.transpose(1, 2).flatten(2))[0][:, -1])


class Tokens(nn.Module):
    """A small vision transformer with a class token."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.first, self.place = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=dropout, batch_first=True, norm_first=True)
        self.f = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1) + self.place
        return self.f(self.block(tokens)[:, 0])


class Centred(nn.Module):
    """Keeps a running mean by assigning its buffer anew, and uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(192, CLASSES)
        self.register_buffer("mean", torch.zeros(192))

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * h.detach().mean(0)
        return self.f(h - self.mean)


class Mixed(nn.Module):
    """Layers of two precisions."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.a, self.b = nn.Linear(192, 24), nn.Linear(24, CLASSES).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x.flatten(1))).to(self.dtype)).float()


class Chance(nn.Module):
    """Draws from the generators of torch, NumPy and Python, in eval mode too."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.f, self.g, self.what = nn.Linear(192, 24), nn.Linear(24, CLASSES), what

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.f(x.flatten(1)))
        if self.what == "dropout":
            h = F.dropout(h, 0.5)
        elif self.what == "noise":
            h = h + 0.1 * torch.randn_like(h)
        elif self.what == "depth":
            h = h * torch.empty(len(h), 1).bernoulli_(0.7) / 0.7
        elif self.what == "python":
            h = h * random.uniform(0.5, 1.5) * float(np.random.uniform(0.5, 1.5))
        return self.g(h)


class Subtracts(nn.Module):
    """Changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(192, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x.sub_(0.5).flatten(1))


def in_place(net: nn.Module, x: Tensor) -> Tensor:
    h = net.f1(net.body(x).flatten(1))
    h += 1
    return net.f2(F.relu_(h) * 2)


def squeezed(net: nn.Module, x: Tensor) -> Tensor:
    h = net.body(x)
    return net.f2(F.relu(net.f1((h * torch.sigmoid(net.gate(h.mean((2, 3))))[:, :, None, None]).flatten(1))))


def outside(net: nn.Module, x: Tensor) -> Tensor:
    return plain(net, x) + 0.1 * torch.cat([net.f2.weight, net.f2.weight], 1).sum(1)


def without_gradient(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = net.f1(net.body(x).flatten(1))
    return net.f2(F.relu(h))


def in_half(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return plain(net, x).float()


def permuted(net: nn.Module, x: Tensor) -> Tensor:
    return net.f2(F.relu(net.f1(net.body(x).permute(0, 2, 3, 1).flatten(1))))


def views(net: nn.Module, x: Tensor) -> Tensor:
    return net.f2(F.relu(net.f1(net.body(x).view(len(x), -1))))


def strided(net: nn.Module, x: Tensor) -> Tensor:
    h = net.body(x)
    return net.f2(F.relu(net.f1(h.as_strided((len(h), FLAT), (FLAT, 1)))))


def residual(net: nn.Module, x: Tensor) -> Tensor:
    h = F.relu(net.c1(x))
    return net.f2(F.relu(net.f1(F.relu(net.c2(h) + h).flatten(1))))


def twice(net: nn.Module, x: Tensor) -> Tensor:
    h = F.relu(net.f1(net.body(x).flatten(1)))
    return net.f2(torch.tanh(net.again(torch.tanh(net.again(h)))))


def old_norm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return with_norm(getattr(nn.utils, name), 3, 5)

    return build


def other_order() -> nn.Module:
    class Order(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.hidden = nn.Linear(24, CLASSES), nn.Linear(192, 24)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.hidden(x.flatten(1))))

    return Order()


def depthwise() -> nn.Module:
    body = [nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.ReLU6(), nn.Conv2d(6, 4, 1), nn.Hardswish(), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(FLAT, CLASSES))


def normalised(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, nn.ReLU(), nn.Flatten(), nn.Linear(FLAT, CLASSES))


def unused() -> nn.Module:
    return Net(plain, spare=nn.Linear(7, 3), conv=nn.Conv2d(1, 1, 1))


ZOO: Mapping[str, Callable[[], nn.Module]] = {
    "sequential": sequential,
    "without bias": lambda: sequential(bias=False),
    "forward of its own": lambda: Net(plain),
    "relu in place": lambda: sequential(act=nn.ReLU(inplace=True)),
    "elu in place": lambda: sequential(act=nn.ELU(inplace=True)),
    "silu in place": lambda: sequential(act=nn.SiLU(inplace=True)),
    "arithmetic in place": lambda: Net(in_place),
    "changes its input": Subtracts,
    "view": lambda: Net(views),
    "as_strided": lambda: Net(strided),
    "permuted": lambda: Net(permuted),
    "residual": lambda: Net(residual),
    "squeeze and excite": lambda: Net(squeezed, gate=nn.Linear(4, 4)),
    "weight by keyword": lambda: Bare(keyword=True),
    "bare parameters": lambda: Bare(keyword=False),
    "weight norm": lambda: with_norm(parametrizations.weight_norm, 3, 5),
    "weight norm, old": old_norm("weight_norm"),
    "spectral norm": lambda: with_norm(parametrizations.spectral_norm, 3, 5),
    "spectral norm, old": old_norm("spectral_norm"),
    "orthogonal": lambda: with_norm(parametrizations.orthogonal, 3),
    "pruned": pruned,
    "tied": tied,
    "a layer twice": lambda: Net(twice, again=nn.Linear(24, 24)),
    "a weight outside its layer": lambda: Net(outside),
    "frozen body": lambda: frozen("c1", "c2"),
    "frozen head": lambda: frozen("f1", "f2.weight"),
    "unused layers": unused,
    "without gradient": lambda: Net(without_gradient),
    "declared in another order": other_order,
    "in parallel": lambda: nn.DataParallel(sequential()),
    "parallel inside": lambda: nn.Sequential(nn.DataParallel(sequential()), nn.Linear(CLASSES, CLASSES)),
    "compiled": lambda: torch.compile(sequential(), backend="eager"),
    "a double layer": lambda: Mixed(torch.float64),
    "a bfloat16 layer": lambda: Mixed(torch.bfloat16),
    "autocast": lambda: Net(in_half),
    "batch norm": lambda: normalised(nn.BatchNorm2d(4)),
    "batch norm without statistics": lambda: normalised(nn.BatchNorm2d(4, track_running_stats=False)),
    "group and layer norm": lambda: normalised(nn.GroupNorm(2, 4), nn.LayerNorm([4, 8, 8])),
    "batch norm in the head": lambda: sequential(nn.BatchNorm1d(24)),
    "depthwise": depthwise,
    "transformer": Tokens,
    "recurrent": Recurrent,
    "transposed convolution": lambda: normalised(nn.ConvTranspose2d(4, 4, 3, padding=1)),
    "a buffer assigned anew": Centred,
    "dropout": lambda: sequential(nn.Dropout(0.5)),
    "dropout in eval mode": lambda: Chance("dropout"),
    "noise": lambda: Chance("noise"),
    "stochastic depth": lambda: Chance("depth"),
    "draws of NumPy and Python": lambda: Chance("python"),
    "transformer with dropout": lambda: Tokens(0.5),
}


def build(name: str, *, seed: int = 0) -> nn.Module:
    """A network of the zoo in eval mode; the same weights for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(shifted(seed))
        return ZOO[name]().eval()
