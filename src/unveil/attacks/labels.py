"""Which labels a batch had, read off the gradient of the last Linear layer."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import Linear, Module

from unveil.core import Batch, Knowledge, Update
from unveil.errors import UsageError
from unveil.gradient import in_mode
from unveil.thin import dense

NOISE_IMAGES = 16  # pictures of noise on which the public model is calibrated


def infer_labels(model: Module, update: Update, knowledge: Knowledge) -> tuple[Tensor, str]:
    """Infer how often each class occurs in the batch.

    The gradient of class c's logit is ``s_c = g (p_c - n_c / n)``: every picture of the class pulls it down. It is the
    bias's gradient, or else the row sum of the weight's. The gain g holds the size of the features, the learning rate
    and the number of local steps. Where most classes do not occur their median tells it; with few classes it is
    calibrated by simulating the client on pictures of noise. For one picture this is iDLG's rule: the one class whose
    gradient is negative.

    Args:
        model: The public model; its last Linear layer must be the one that gives the class scores.
        update: What was received: a gradient, or a weight difference.
        knowledge: Tells the local training and the number of pictures and classes.

    Returns:
        The n labels in ascending order (reconstructions are matched to the originals afterwards), and a sentence on
        how they were found.

    Raises:
        UsageError: The model has no Linear layer that gives the class scores.

    Reference:
        Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020 (one picture);
        Wainakh et al., User-Level Label Leakage from Gradients in Federated Learning, PoPETs 2022 (counts).
    """
    heads = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and module.out_features >= knowledge.classes
    ]
    if not heads:
        raise UsageError(
            "labels: the model has no Linear layer that gives the class scores, so labels cannot be inferred; "
            "let the attacker know the labels, or use an attack that searches them (dlg)"
        )
    prefix = f"{heads[-1]}." if heads[-1] else ""
    tensor = prefix + ("bias" if _informative(update.tensors.get(prefix + "bias")) else "weight")
    signal = _per_class(update.tensors[tensor])
    n, classes = knowledge.num_images, len(signal)
    chance, gain = _calibrate(model, knowledge, tensor, classes)
    if classes >= 4 * n:  # at least three quarters of the classes do not occur
        gain = (signal / chance.to(signal)).median()
    pull = (gain * chance.to(signal) - signal).clamp_min(0)
    share = n * pull / pull.sum().clamp_min(torch.finfo(pull.dtype).tiny)
    counts = share.floor().long()
    missing = n - int(counts.sum())
    counts[(share - counts).topk(missing).indices] += 1  # largest remainders
    labels = torch.repeat_interleave(torch.arange(classes, device=counts.device), counts)
    return labels, f"The labels were inferred from the gradient of the last layer ({tensor})."


def _calibrate(model: Module, knowledge: Knowledge, tensor: str, classes: int) -> tuple[Tensor, Tensor]:
    """Mean class probabilities and gain of the public model, from simulating the client on pictures of noise."""
    generator = Generator().manual_seed(0)
    device = next(model.parameters()).device
    n = min(NOISE_IMAGES, knowledge.num_images)
    images = torch.rand((n, *knowledge.image_shape), generator=generator).to(device)
    labels = torch.randint(classes, (n,), generator=generator).to(device)
    signal = _per_class(dense(knowledge.training.simulate(model, Batch(images, labels))[tensor])).detach()
    with torch.no_grad():
        chance = in_mode(model, "eval")(images).softmax(1).mean(0)
    expected = chance - torch.bincount(labels, minlength=classes) / n
    return chance, (signal @ expected) / expected.square().sum()


def _per_class(gradient: Tensor) -> Tensor:
    return gradient if gradient.dim() == 1 else gradient.sum(1)


def _informative(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())
