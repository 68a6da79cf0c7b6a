"""Every score against an independent implementation, and against what ROG's authors logged."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seeds import seeded
from unveil.core.errors import UsageError
from unveil.metrics import CATALOGUE
from unveil.metrics.pixel import correlation, psnr, ssim, ssim_global

ANCHOR = Path(os.environ.get("UNVEIL_ANCHOR", Path(__file__).parents[3] / "shared" / "anchors" / "rog"))


def noisy_pair(channels=3, size=20, spread=0.2):
    generator = seeded(3)
    original = torch.rand(4, channels, size, size + 3, generator=generator)
    noise = spread * torch.randn(original.shape, generator=generator)
    return original, (original + noise).clamp(0, 1)


def psnr_in_numpy(x, y):
    return 20 * np.log10(255) - 10 * np.log10(np.mean((255 * x - 255 * y) ** 2))


def ssim_in_numpy(x, y):
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2

    def average(z):
        patches = np.lib.stride_tricks.sliding_window_view(z, (11, 11))
        return np.einsum("ijkl,kl->ij", patches, window)

    values = []
    for a, b in zip(x, y, strict=True):
        mean_a, mean_b = average(a), average(b)
        var_a, var_b = average(a * a) - mean_a**2, average(b * b) - mean_b**2
        covariance = average(a * b) - mean_a * mean_b
        numerator = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
        values.append((numerator / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))).mean())
    return np.mean(values)


def ssim_global_in_numpy(x, y):
    def channels(picture):
        r, g, b = np.rint(255 * picture)
        luma = np.rint(0.299 * r + 0.587 * g + 0.114 * b)
        return luma, np.rint(0.713 * (r - luma)) + 128, np.rint(0.564 * (b - luma)) + 128

    total = 0.0
    for weight, a, b in zip((0.8, 0.1, 0.1), channels(x), channels(y), strict=True):
        c1, c2 = 6.5025, 58.5225
        (var_a, covariance), (_, var_b) = np.cov(a.ravel(), b.ravel(), bias=True)
        luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
        total += weight * luminance * (2 * covariance + c2) / (var_a + var_b + c2)
    return total


def correlation_in_numpy(x, y):
    return np.corrcoef(x.ravel(), y.ravel())[0, 1]


@pytest.mark.parametrize(
    ("score", "independent"),
    [
        (psnr, psnr_in_numpy),
        (ssim, ssim_in_numpy),
        (ssim_global, ssim_global_in_numpy),
        (correlation, correlation_in_numpy),
    ],
)
@pytest.mark.parametrize("spread", [0.02, 0.2, 0.7])
def test_each_score_equals_an_independent_implementation(score, independent, spread):
    original, guess = noisy_pair(spread=spread)
    expected = [independent(x, y) for x, y in zip(original.double().numpy(), guess.double().numpy(), strict=True)]
    assert score(original, guess).numpy() == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=CATALOGUE)
def test_one_value_an_image_never_pooled(metric):
    original, guess = noisy_pair()
    guess[2] = original[2]
    values = metric.score(original, guess)
    assert values.shape == (4,)
    assert values[2] > values[[0, 1, 3]].max()
    assert values[1].item() == pytest.approx(metric.score(original[1:2], guess[1:2]).item())


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=CATALOGUE)
def test_more_noise_scores_lower_and_order_of_arguments_does_not_matter(metric):
    original, near = noisy_pair(spread=0.05)
    _, far = noisy_pair(spread=0.5)
    assert metric.leak == "high"
    assert (metric.score(original, near) > metric.score(original, far)).all()
    assert torch.allclose(metric.score(original, near), metric.score(near, original))


def test_correlation_is_blind_to_brightness_and_contrast_and_zero_for_a_flat_picture():
    original, _ = noisy_pair()
    assert correlation(original, 0.1 + 0.3 * original).tolist() == pytest.approx([1.0] * 4)
    assert correlation(original, 1 - original).tolist() == pytest.approx([-1.0] * 4)
    assert correlation(original, torch.full_like(original, 0.5)).tolist() == [0.0] * 4


def test_an_exact_image_is_capped_at_the_level_of_rounding():
    original, _ = noisy_pair()
    assert psnr(original, original).tolist() == pytest.approx([10 * np.log10(12 * 255**2)] * 4)
    assert psnr(original, (original * 255).round() / 255).min() > 58


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=CATALOGUE)
def test_grey_pictures_are_scored_too(metric):
    original, guess = noisy_pair(channels=1)
    as_colour = metric.score(original.expand(-1, 3, -1, -1), guess.expand(-1, 3, -1, -1))
    if metric.name == "ssim_global":  # two empty chroma channels agree perfectly
        as_colour = (as_colour - 0.2) / 0.8
    assert metric.score(original, guess).tolist() == pytest.approx(as_colour.tolist(), abs=1e-6)


def test_pictures_smaller_than_the_window():
    with pytest.raises(UsageError, match=r"ssim: expected pictures of at least 11 x 11, got 8 x 16; use larger"):
        ssim(torch.zeros(1, 3, 8, 16), torch.zeros(1, 3, 8, 16))


def test_two_channels_have_no_luma():
    with pytest.raises(UsageError, match=r"ssim_global: expected pictures of 1 or 3 channels, got 2"):
        ssim_global(torch.zeros(1, 2, 12, 12), torch.zeros(1, 2, 12, 12))


@pytest.mark.slow
@pytest.mark.skipif(not ANCHOR.is_dir(), reason="the published batch is not here; set UNVEIL_ANCHOR to its folder")
@pytest.mark.parametrize("obfuscation", ["qsgd16", "fedavg5"])
def test_the_figures_that_the_authors_logged(obfuscation):
    def load(folder):
        pictures = [np.array(Image.open(ANCHOR / folder / f"{index}.png").convert("RGB")) for index in range(16)]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255

    logged = json.loads((ANCHOR / "anchor.json").read_text())["authors_logged"][obfuscation]
    original, guess = load("original"), load(obfuscation)
    assert psnr(original, guess).mean().item() == pytest.approx(logged["psnr"], abs=5e-4)
    assert ssim(original, guess).mean().item() == pytest.approx(logged["ssim_gauss11_rgb"], abs=5e-4)
    assert ssim_global(original, guess).mean().item() == pytest.approx(logged["ssim_global_ycbcr"], abs=5.1e-5)
