"""A client that trains with Opacus: one step of its PrivacyEngine, recorded, and audited as a server would see it.

python examples/opacus_client.py      # needs Opacus: pip install 'unveil[dp]'
"""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import unveil as uv
from unveil.captures.manifest import declared
from unveil.report.guarantees import sentence

PICTURES, SIZE, RATE, CLIP, LR = 12, 32, 1 / 3, 1.0, 0.1


class Net(nn.Module):
    """A small network without BatchNorm, which DP-SGD cannot have."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2, stride=2), nn.Sigmoid(), nn.Flatten())
        self.head = nn.Linear(16 * (SIZE // 2) ** 2, PICTURES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of pictures."""
        return self.head(self.body(x))


def step_of(client: uv.Client, noise: float, folder: Path) -> tuple[Path, Tensor]:
    """Train for one step, and write what the client sends; return the file and the pictures of the step."""
    before = copy.deepcopy(client.model.state_dict())
    model = copy.deepcopy(client.model).train()
    engine = PrivacyEngine(accountant="prv")
    private, optimiser, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LR),
        data_loader=DataLoader(TensorDataset(client.images, client.labels), batch_size=round(RATE * PICTURES)),
        noise_multiplier=noise,
        max_grad_norm=CLIP,
        noise_generator=torch.Generator().manual_seed(0),
    )
    images, labels = next((x, y) for x, y in loader if len(x) > 1)  # a Poisson sample may be empty
    cross_entropy(private(images), labels).backward()
    optimiser.step()
    after = {name.removeprefix("_module."): tensor for name, tensor in private.state_dict().items()}
    facts = {
        "framework": "opacus",
        "learning_rate": LR,
        "optimiser": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "steps": 1,
        "examples": len(images),
        "labels": labels.tolist(),
        "classes": PICTURES,
        "image_shape": [3, SIZE, SIZE],
        "mode": "train",
        "clip": CLIP,
        "noise": noise,
        "expected": optimiser.expected_batch_size,
        "sampling": "poisson",
        "dataset": PICTURES,
    }
    path = folder / f"noise-{noise:g}.safetensors"
    uv.write_recording(path, manifest=declared(**facts), before=before, client=after)
    return path, images


def main() -> None:
    """Audit three noise multipliers: next to none, little, and a usual one."""
    warnings.simplefilter("ignore")  # Opacus says that its noise is no cryptography without secure_mode
    torch.manual_seed(0)  # draws the Poisson samples
    pictures = uv.make_client(
        name="opacus", model="lenet", images="builtin", size=SIZE, batch=PICTURES, training=uv.FedSGD()
    )
    client = replace(pictures, model=Net(), classes=PICTURES, model_name="opacus_client:Net")
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as folder:
        for noise in (0.001, 0.1, 1.0):
            path, images = step_of(client, noise, Path(folder))
            recorded = replace(uv.recorded_client(uv.read_recording(path), "opacus_client:Net"), truth=images)
            audit = uv.RecordedAudit(clients=[recorded], attacks=[uv.attacks.parse("unveil:steps=30")])
            (trial,) = uv.run(audit, Path(folder, f"{noise:g}"))
            (statement,) = trial.privacy
            psnr = sum(trial.scores["psnr"]) / len(images)
            blind = sum(trial.blind["psnr"]) / len(images)
            print(f"noise {noise:g}: {psnr:.1f} dB of {len(images)} pictures, a grey picture {blind:.1f} dB")
            print(f"  {sentence(statement)}")


if __name__ == "__main__":
    main()
