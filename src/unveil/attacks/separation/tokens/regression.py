"""A small network that tells pictures from the sum of the errors of their tokens, fitted to synthetic pictures.

Reference:
    Learning gradients to pictures on auxiliary data: Wu, Chen, Guo and Weinberger, Learning To Invert: Simple Adaptive
    Attacks for Gradient Inversion in Federated Learning, UAI 2023. On synthetic pictures alone, from the position
    embeddings' gradient, with sums put together from single pictures: ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from unveil.attacks.separation.tokens.samples import Samples
from unveil.core.spectra import eigh

PLACES = 1024  # places of the grid in one step, about
LEARNING_RATE = 2e-3  # the largest; it rises for three tenths of the steps and falls by a cosine
INSIDE = 256  # channels that see one place
AROUND = 192  # channels that see its neighbours
RIDGE = 1e-5  # smallest variance of a direction of the errors that is told from noise, relative to the largest


class PictureRegression(nn.Module):
    """Sum of errors, and each picture's last features -> the frequencies of each picture's patches.

    Args:
        mean: Mean of the sums.
        whitening: Whitens them.
        centre: Mean of each label's features.
        spread: Their standard deviations.
        unit: The unit of each picture's frequencies: their root mean square.
    """

    def __init__(
        self,
        *,
        mean: Float[Tensor, " width"],
        whitening: Float[Tensor, "width width"],
        centre: Float[Tensor, "n features"],
        spread: Float[Tensor, "n features"],
        unit: Float[Tensor, "n size 1 1"],
    ) -> None:
        super().__init__()
        self.mean, self.whitening, self.centre, self.spread, self.unit = mean, whitening, centre, spread, unit
        width = len(mean)
        self.place = nn.Conv2d(width, INSIDE, 1)
        self.context = nn.Sequential(
            nn.Linear(width + centre.numel(), INSIDE), nn.GELU(), nn.Linear(INSIDE, 2 * INSIDE)
        )
        self.again = nn.Conv2d(INSIDE, INSIDE, 1)
        self.near = nn.Conv2d(INSIDE, AROUND, 3, padding=1)
        self.nearer = nn.Conv2d(AROUND, AROUND, 3, padding=1)
        self.read = nn.Conv2d(INSIDE + AROUND, unit.numel(), 1)

    def forward(
        self, total: Float[Tensor, "count width rows columns"], features: Float[Tensor, "count n features"]
    ) -> Float[Tensor, "count n size rows columns"]:
        """Compute the frequencies of batches from the sums of their errors."""
        white = torch.einsum("bwrc,wv->bvrc", total - self.mean[:, None, None], self.whitening)
        whole = torch.cat([white.mean((2, 3)), ((features - self.centre) / self.spread).flatten(1)], 1)
        scale, shift = self.context(whole)[..., None, None].chunk(2, 1)
        own = F.gelu(self.again(F.gelu(self.place(white) * (1 + scale) + shift)))
        around = F.gelu(self.nearer(F.gelu(self.near(own))))
        read: Tensor = self.read(torch.cat([own, around], 1))
        return read.reshape(len(total), *self.unit.shape[:2], *total.shape[2:]) * self.unit


def fit_regression(samples: Samples, *, steps: int, noise: float, generator: Generator) -> PictureRegression:
    """Fit the network to synthetic pictures, by squared error.

    Args:
        samples: The synthetic pictures.
        steps: Steps of Adam, at least 1.
        noise: Standard deviation of the obfuscation's noise in each entry of the sum; at least 0.
        generator: Randomness of the first weights and of the batches.
    """
    network = prepared(samples, noise=noise, generator=generator)
    adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, LEARNING_RATE, total_steps=max(steps, 2))
    count = max(4, PLACES // (samples.errors.shape[3] * samples.errors.shape[4]))
    for _ in range(steps):
        total, features, wanted = samples.mixed(count, generator=generator)
        if noise:
            drawn = torch.randn(total.shape, generator=generator, device=generator.device)
            total = total + noise * drawn.to(total)
        with torch.enable_grad():
            loss = (network(total, features) - wanted).square().mean()
            adam.zero_grad()
            loss.backward()
        adam.step()
        schedule.step()
    return network.requires_grad_(False)


def prepared(samples: Samples, *, noise: float, generator: Generator) -> PictureRegression:
    """Return the network with random weights, and with the means and spreads of the samples.

    Args:
        samples: The synthetic pictures.
        noise: Standard deviation of the obfuscation's noise in each entry of the sum; at least 0.
        generator: Randomness of the weights.
    """
    rows = samples.errors.sum(1).permute(0, 2, 3, 1).reshape(-1, samples.errors.shape[2])
    covariance = torch.cov(rows.T.double())
    values, vectors = eigh(covariance + noise**2 * torch.eye(len(covariance)).to(covariance))
    least = (RIDGE * values[-1]).clamp_min(torch.finfo(torch.float32).tiny)
    with torch.random.fork_rng(devices=[]):  # building the network draws weights, which are then replaced
        network = PictureRegression(
            mean=rows.mean(0),
            whitening=(vectors * (values.clamp_min(0) + least).rsqrt()).float(),
            centre=(centre := samples.features.mean(0)),
            spread=(samples.features - centre).square().mean(0).sqrt() + 1e-3,
            unit=samples.frequencies.square().mean((0, 3, 4)).sqrt().clamp_min(1e-3)[..., None, None],
        ).to(rows.device)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            drawn = torch.rand(layer.weight.shape, generator=generator, device=generator.device)
            layer.weight.data = ((2 * drawn - 1) * layer.weight[0].numel() ** -0.5).to(rows)
            if layer.bias is not None:
                layer.bias.data.zero_()
    return network
