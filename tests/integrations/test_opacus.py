"""Opacus for real: its gradients are ours, its accountant is asked what it would say itself, its client is audited."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("opacus", reason="Opacus is not installed here; make test-integrations tests with it")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

from opacus import PrivacyEngine  # noqa: E402
from opacus.accountants import PRVAccountant  # noqa: E402

from seeds import seeded  # noqa: E402
from unveil.clients.training import FedAvg, FedSGD  # noqa: E402
from unveil.core.batch import Batch  # noqa: E402
from unveil.obfuscations.none import Identity  # noqa: E402
from unveil.privacy.statements import privacy_statements  # noqa: E402
from unveil.privacy.terms import PrivacyTerms  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "opacus_client.py"
CLIP, LR, EXAMPLES = 0.5, 0.1, 24


class Net(nn.Module):
    """Convolution, GroupNorm and Linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Sigmoid(), nn.Flatten())
        self.head = nn.Linear(8 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.fixture
def data() -> TensorDataset:
    images = torch.rand(EXAMPLES, 3, 8, 8, generator=seeded(0))
    return TensorDataset(images, torch.randint(0, 10, (EXAMPLES,), generator=seeded(1)))


def made_private(data: TensorDataset, **settings: Any) -> tuple[Net, Net, Any, Any, Any]:
    """The network before training, a copy of it, and Opacus's module, optimiser and loader of that copy."""
    torch.manual_seed(0)
    model = Net()
    trained = copy.deepcopy(model).train()
    private, optimiser, loader = PrivacyEngine().make_private(
        module=trained,
        optimizer=torch.optim.SGD(trained.parameters(), lr=LR),
        data_loader=DataLoader(data, batch_size=6),
        max_grad_norm=CLIP,
        **settings,
    )
    return model, trained, private, optimiser, loader


@pytest.mark.parametrize("poisson", [True, False])
def test_opacuss_gradients_and_steps_are_ours(data: TensorDataset, poisson: bool) -> None:
    model, trained, private, optimiser, loader = made_private(data, noise_multiplier=0.0, poisson_sampling=poisson)
    images, labels = max(loader, key=lambda batch: len(batch[0]) != 6)  # of a Poisson sample one of another size
    cross_entropy(private(images), labels).backward()
    optimiser.step()
    assert optimiser.expected_batch_size == 6
    batch = Batch(images, labels)
    ours = FedSGD(clip=CLIP, expected=6)(model, batch)
    for name, parameter in private.named_parameters():
        torch.testing.assert_close(ours[name.removeprefix("_module.")], parameter.grad, rtol=1e-4, atol=1e-7)
    difference = FedAvg(steps=1, lr=LR, clip=CLIP, expected=6)(model, batch)
    for name, before in model.named_parameters():
        moved = before - trained.get_parameter(name)
        torch.testing.assert_close(difference[name], moved, rtol=1e-3, atol=1e-7)
    actual = FedSGD(clip=CLIP)(model, batch)  # divides by the pictures that were drawn
    for name, gradient in ours.items():
        torch.testing.assert_close(actual[name], gradient * 6 / len(batch))


def test_the_noise_is_as_large_as_opacuss(data: TensorDataset) -> None:
    model, _, private, optimiser, loader = made_private(data, noise_multiplier=20.0, noise_generator=seeded(2))
    images, labels = next((x, y) for x, y in loader if len(x))
    cross_entropy(private(images), labels).backward()
    optimiser.step()
    theirs = torch.cat([p.grad.flatten() for p in private.parameters() if p.grad is not None])
    training = FedSGD(clip=CLIP, noise=20.0, expected=6)
    ours = torch.cat([t.flatten() for t in training(model, Batch(images, labels), generator=seeded(3)).values()])
    assert float(ours.std()) == pytest.approx(20 * CLIP / 6, rel=0.05)  # 3,000 values
    assert float(theirs.std()) == pytest.approx(20 * CLIP / 6, rel=0.05)


def test_the_engines_own_accountant_says_the_same(data: TensorDataset) -> None:
    engine = PrivacyEngine(accountant="prv")
    model = Net().train()
    private, optimiser, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LR),
        data_loader=DataLoader(data, batch_size=6),
        noise_multiplier=1.1,
        max_grad_norm=CLIP,
    )
    steps = 0
    for images, labels in loader:
        optimiser.zero_grad()
        cross_entropy(private(images), labels).backward()
        optimiser.step()
        steps += 1
    assert isinstance(engine.accountant, PRVAccountant)
    training = FedAvg(steps=steps, lr=LR, clip=CLIP, noise=1.1, expected=6)
    terms = PrivacyTerms(sampling="poisson", dataset=EXAMPLES, each="step")
    (stated,) = privacy_statements(training, Identity(), 6, terms)
    assert stated.epsilon == pytest.approx(engine.get_epsilon(1e-5), rel=1e-9)


def test_the_example_audits_a_client_of_opacus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import opacus_client

    opacus_client.main()
    lines = capsys.readouterr().out.splitlines()
    found = [line.split() for line in lines if line.startswith("noise")]
    assert [words[1] for words in found] == ["0.001:", "0.1:", "1:"]
    came_back = [float(words[2]) - float(words[-2]) for words in found]
    assert came_back[0] > 3  # dB above a grey picture, with next to no noise
    assert came_back[2] < 1
    assert "PRV accountant of Opacus" in lines[-1]
