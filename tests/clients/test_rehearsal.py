"""The rehearsal: what fails in a user's network is told before an audit starts, with the user's own error."""

import pytest
import torch

from seeds import seeded
from unveil.clients.models import ModelName, build_model
from unveil.clients.models.normalisation import Normalisation, normalised
from unveil.clients.models.rehearsal import rehearse
from unveil.clients.training import parse, shortened
from unveil.core.batch import Batch
from unveil.core.errors import UsageError

CLASSES = 4


def rehearsed(name, training="fedsgd", n=3):
    model = build_model(name, image_shape=(3, 16, 16), classes=CLASSES, seed=0)
    generator = seeded(3)
    batch = Batch(torch.rand((n, 3, 16, 16), generator=generator), torch.arange(n) % CLASSES)
    client = parse(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    try:
        return rehearse(
            ModelName.parse(name),
            model,
            batch,
            CLASSES,
            client=shortened(client, n),
            attacker=shortened(client, min(n, 2)),
        )
    finally:
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert torch.equal(state, torch.random.get_rng_state())
        assert not model._forward_hooks


MODULE = """
class Net(nn.Module):
    def __init__(self, classes, kind=""):
        super().__init__()
        self.inner, self.kind, self.norm = flat(classes), kind, nn.BatchNorm1d(8)
        self.unused = nn.Linear(2, 2)
    def forward(self, x):
        if self.kind == "train" and self.training:
            raise KeyError("targets")
        if self.kind == "two":
            x = x.view(2, 768)
        if self.kind == "lost":
            return self.inner(x) * (float("nan") if len(x) == 3 else 1)
        if self.kind == "tuple" and self.training:
            return self.inner(x), x.mean()
        if self.kind == "zero":
            return self.inner(x) * 0
        if self.kind == "once":
            return Once.apply(self.inner(x))
        if self.kind == "exit" and torch.is_grad_enabled():
            raise SystemExit(0)
        if self.kind == "grad":
            torch.set_grad_enabled(False)
        if self.kind == "dtype":
            torch.set_default_dtype(torch.float64)
        if self.kind == "softmax":
            return self.inner(x).softmax(1)
        if self.kind == "log_softmax":
            return self.inner(x).log_softmax(1)
        if self.kind == "norm":
            return self.inner[3](self.norm(self.inner[1](x.flatten(1))))
        return self.inner(x)
class Once(torch.autograd.Function):
    @staticmethod
    def forward(context, x): return x.clone()
    @staticmethod
    def backward(context, slope):
        if slope.requires_grad or torch.is_grad_enabled():
            raise ArithmeticError("once only")
        return slope
def net(classes, kind): return Net(classes, kind)
def partly(classes):
    net = flat(classes)
    net[1].requires_grad_(False)
    return net
"""


@pytest.mark.parametrize(
    ("kind", "training", "message"),
    [
        ("train", "fedsgd:mode=train", r"its forward raised KeyError: 'targets' \({mine}.py, line 14\)"),
        ("two", "fedsgd", r"raised RuntimeError: shape .* \({mine}.py, line 16\)"),
        ("lost", "fedsgd", r"its logits hold NaN or infinite values for this batch"),
        ("tuple", "fedsgd:mode=train", r"got tuple; return the logits alone"),
        ("zero", "fedsgd", r"the update is all zeros"),
        ("once", "fedsgd", r"raised ArithmeticError: once only \({mine}.py, line \d+\)"),
        ("exit", "fedsgd", r"raised SystemExit: 0 \({mine}.py, line 26\)"),
        ("grad", "fedsgd", r"so there is no gradient to send; .* do not run the forward under torch.no_grad"),
        ("dtype", "fedsgd", r"changes torch's gradient mode or default type"),
        (
            "norm",
            "fedavg:epochs=1,batch_size=2,lr=0.1,mode=train",
            r"BatchNorm in train mode cannot normalise a single",
        ),
        ("", "fedavg:steps=3,lr=1e30,weight_decay=1e10", r"NaN or infinite values"),
    ],
)
def test_what_fails_is_told_before_the_audit(mine, kind, training, message):
    name = mine(MODULE)
    n = 3
    if training.startswith("fedavg:steps"):
        training = training.replace("lr", "batch_size=1,lr")
    with pytest.raises(UsageError, match=message.replace("{mine}", name)) as caught:
        rehearsed(f"{name}:net?kind={kind}", training, n)
    assert str(caught.value).startswith(f"model '{name}:net")
    assert "\n" not in str(caught.value)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("training", ["fedsgd", "fedsgd:mode=train", "fedavg:epochs=2,batch_size=2,lr=0.01,mode=train"])
def test_what_works_has_no_notes(mine, training):
    name = mine("def net(classes): return flat(classes)\n")
    assert rehearsed(f"{name}:net", training) == ()


def test_notes_of_a_model_that_a_reader_should_know_of(mine):
    name = mine(MODULE)
    assert any("seems to return probabilities" in note for note in rehearsed(f"{name}:net?kind=softmax"))
    logs = rehearsed(f"{name}:net?kind=log_softmax")
    assert not any("probabilities" in note for note in logs)
    assert any("norm.weight and 3 more is all zeros" in note for note in logs)
    assert rehearsed(f"{name}:partly") == ("The client trains and sends 2 of its 4 tensors; others are frozen.",)


@pytest.mark.parametrize("layer", ["nn.Hardsigmoid()", "nn.Hardsigmoid(inplace=True)", "Attention()"])
def test_operations_that_torch_differentiates_once_only(mine, layer):
    name = mine(
        f"""
        class Attention(nn.Module):
            def forward(self, x):
                x = x.reshape(len(x), 2, 4, 4)
                return F.scaled_dot_product_attention(x, x, x).flatten(1)
        def net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(768, 32), {layer}, nn.Linear(32, classes))
        """
    )
    assert rehearsed(f"{name}:net") == ()


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), ([0.5], [0.1, 0.2, 0.3])])
def test_normalisation_is_before_the_network_and_renames_nothing(mine, mean, std):
    name = mine("def net(classes): return flat(classes)\n")
    plain, wrapped = (build_model(f"{name}:net", image_shape=(3, 16, 16), classes=4, seed=0) for _ in range(2))
    wrapped = normalised(wrapped, Normalisation.of(mean, std, channels=3))
    images = torch.rand((2, 3, 16, 16), generator=seeded(1))
    by_hand = (images - torch.tensor(mean).reshape(-1, 1, 1)) / torch.tensor(std).reshape(-1, 1, 1)
    assert torch.allclose(wrapped(images), plain(by_hand), atol=1e-6)
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    labels = torch.tensor([0, 1])
    client = parse("fedsgd")
    sent, expected = client(wrapped, Batch(images, labels)), client(plain, Batch(by_hand, labels))
    assert all(torch.allclose(sent[key], expected[key], atol=1e-6) for key in expected)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5, 0.5], 0.5, "expected mean to be a number or 3 of them"),
        (0.5, [0.5] * 4, "expected std to be a number or 3 of them"),
        (0.5, 0, "expected 0 < std"),
        (0.5, -1.0, "expected 0 < std"),
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], "divide those of 8-bit pictures by 255"),
        (float("nan"), 1, "expected mean to be a number"),
        ("a", 1, "expected mean"),
        (True, 1, "expected mean"),
        ([], 1, "expected mean"),
        (0.5, {"a": 1}, "expected std"),
    ],
)
def test_a_normalisation_that_no_pictures_have(mean, std, message):
    with pytest.raises(UsageError, match=message):
        Normalisation.of(mean, std, channels=3)
