"""Which labels a batch had, read off the update of the last layer."""

from __future__ import annotations

import math
from functools import cache
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.counts import cheapest_counts, margin
from unveil.attacks.evidence import class_signals, read, slopes_of
from unveil.attacks.leaves import dead_leaves
from unveil.attacks.likelihood import Chance, Likelihood, Signals, learn
from unveil.attacks.rehearsal import Pool, rehearse, shuffled_labels
from unveil.attacks.rows import ClassRows, own_randomness, read_rows
from unveil.core import Batch, Images, Knowledge, Shrinking, Update
from unveil.errors import UsageError
from unveil.thin import dense

PRIOR = 0.5
POOL = 72  # public pictures
SHARPNESS = (1.0, 3.0, 10.0)  # how many times less a batch's pictures may differ than the public ones
BOOSTS = (1.5, 3.0, 5.0)  # how much more a trained model may favour the true class, in logits
LIKENESS = 0.3  # standard deviation of the logarithm of the size of real pictures' features beside synthetic ones'
ENTRIES = 1 << 23  # entries of the last layer rehearsed a hypothesis, which bounds the rounds
EXACT = 1e-3  # share of the rows' length that their sum may have where the channel added nothing


def infer_labels(model: Module, update: Update, knowledge: Knowledge) -> tuple[Tensor, str]:
    """Infer how often each class occurs in the batch.

    The slope of the loss with respect to class c's score is ``p_c - [y = c]`` for each picture, and every row of the
    last layer's update is made of it: see `evidence` for how one number a class is read from weights and biases
    together. What that number is for a class that occurs k times is learned from rehearsals (`rehearsal`,
    `likelihood`): the last layer is trained on public pictures with labels that the attacker chose, and sent through the
    channel. The counts of highest likelihood that sum to n are the labels.

    For one picture there is iDLG's criterion besides: the true class's is the only row whose inner products with all
    others are negative, whatever the features' signs.

    Args:
        model: The public model. Its last layer is found by differentiating its scores.
        update: What was received: a gradient, or a weight difference.
        knowledge: Tells the local training, the channel if it is known, and the number of pictures and classes.

    Returns:
        The n labels in ascending order (reconstructions are matched to the originals afterwards), and a sentence on
        how they were found and how sure they are.

    Raises:
        UsageError: The model has no layer with a row for each class, or nothing of it was sent.

    Reference:
        Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020 (one picture);
        Wainakh et al., User-Level Label Leakage from Gradients in Federated Learning, PoPETs 2022 (counts).
    """
    images = public_pictures(knowledge.image_shape).to(next(p for p in model.parameters() if p.is_floating_point()))
    rows = read_rows(model, images, update.tensors, mode=knowledge.training.mode)
    _check(rows)
    classes = min(knowledge.classes, rows.scores.shape[1])
    found = alone(rows.of(update.tensors)[:classes]) if knowledge.num_images == 1 else None
    used = " and ".join(rows.shapes)
    if found is not None:
        labels = torch.tensor([found], device=images.device)
        return labels, (
            f"The label was inferred from {used}: its row is the only one that points against all others, so it is certain."
        )
    return _Inference(model, rows, images, update, knowledge, classes).labels(used)


def alone(rows: Float[Tensor, "classes entries"]) -> int | None:
    """iDLG's criterion for one picture: the class whose row's inner products with all others are negative.

    Returns:
        The class, or None where the others' inner products among one another are not all positive, as noise may make
        them, or where there are too few classes for that to be more than chance.
    """
    rows = rows.double()
    classes = len(rows)
    products = rows @ rows.T
    exact = float(rows.sum(0).norm()) <= EXACT * float(rows.norm())
    if classes < (3 if exact else 6):
        return None
    negative = (products < 0).sum(1)
    c = int(negative.argmax())
    others = torch.arange(classes, device=rows.device) != c
    if int(negative[c]) == classes - 1 and bool((products[others][:, others] > 0).all()):
        return c
    return None


@cache
def public_pictures(image_shape: tuple[int, int, int]) -> Images:
    """Dead leaves of all contrasts and exposures, noise and flat colours, the same in each call."""
    generator = Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    some = POOL // 6
    leaves = dead_leaves(POOL - 2 * some, image_shape, generator=generator)
    one = (len(leaves), 1, 1, 1)
    leaves = (leaves - 0.5) * (0.2 + 1.3 * uniform(*one)) + uniform(*one)
    flat = uniform(some, image_shape[0], 1, 1) + 0.1 * torch.randn((some, *image_shape), generator=generator)
    return torch.cat([leaves, uniform(some, *image_shape), flat]).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class _Answer:
    counts: Tensor
    cost: float
    margin: float
    pool: Pool


class _Inference:
    """One inference: what was received, and the rehearsals that say what it means."""

    def __init__(
        self, model: Module, rows: ClassRows, images: Images, update: Update, knowledge: Knowledge, classes: int
    ) -> None:
        self.rows, self.knowledge, self.classes = rows, knowledge, classes
        self.channel = knowledge.obfuscation
        self.update = Update({name: update.tensors[name] for name in rows.shapes}, update.coding)
        self.generator = Generator().manual_seed(0)
        self.slopes = slopes_of(rows)
        self.n = knowledge.num_images
        self.rounds = min(16, max(4, ENTRIES // rows.values.numel()))
        lossy = isinstance(self.channel, Shrinking) and self.channel.loses_scale
        self.scaled = knowledge.scale and self.channel is not None and not lossy
        self.factor = self._factor(model, images) if self.scaled else 1.0

    def labels(self, used: str) -> tuple[Tensor, str]:
        plain = Pool(self.rows.slopes, self.rows.scores)
        best = self._answer(plain, None)
        for boost in BOOSTS:
            other = self._answer(plain.known(boost), None)
            if other.cost > best.cost:
                break
            best = other
        best = self._answer(best.pool, torch.repeat_interleave(torch.arange(self.classes), best.counts))
        labels = torch.repeat_interleave(torch.arange(self.classes), best.counts).to(self.rows.values.device)
        odds = math.exp(-best.margin)
        return labels, (
            f"The labels were inferred from the update of the last layer ({used}), each entry as sure as the channel "
            f"leaves it; the next best labels are {odds:.1g} times as likely."
        )

    def _factor(self, model: Module, images: Images) -> float:
        """How much larger the whole client's update of the rows is than a rehearsal's, which keeps features as they are."""
        labels = next(shuffled_labels(self.n, self.classes, 1, near=None, generator=Generator().manual_seed(1)))
        labels = labels.to(images.device)
        drawn = torch.arange(self.n) % len(images)
        order = torch.randperm(len(images), generator=Generator().manual_seed(2))
        with own_randomness():
            whole = self.knowledge.training.simulate(model, Batch(images[order[drawn]], labels))
        sent = self.rows.of({name: dense(whole[name]).detach() for name in self.rows.shapes})
        pool = Pool(self.rows.slopes, self.rows.scores)
        own = rehearse(
            self.knowledge.training, self.rows, pool, labels, generator=self.generator, drawn=order[drawn]
        )
        return max(float((sent * own).sum() / own.square().sum().clamp_min(1e-30)), 1e-6)

    def _answer(self, pool: Pool, near: Tensor | None) -> _Answer:
        training, outputs = self.knowledge.training, self.rows.scores.shape[1]
        clean, counts = [], []
        for labels in shuffled_labels(self.n, self.classes, self.rounds, near=near, generator=self.generator):
            labels = labels.to(self.rows.values.device)
            clean.append(self.factor * rehearse(training, self.rows, pool, labels, generator=self.generator))
            counts.append(torch.bincount(labels, minlength=outputs))
        sent = [self._through(rows) for rows in clean]
        noise = self._noise(clean, sent)
        size = self._size(clean, counts)
        chances = pool.scores.softmax(1).double().cpu()[:, : self.classes]
        chance = Chance(chances.mean(0) - chances.mean(), chances.var(0))
        signals = [self._signals(u, noise, size) for u in sent]
        likelihood = learn(signals, [k[: self.classes].cpu() for k in counts], chance, self.n)
        return self._best(likelihood, self._signals(self.update, noise, size), chance, pool)

    def _signals(self, update: Update, noise: dict[str, float], size: float) -> Signals:
        reading = read(self.rows, update, self.channel, noise)
        return class_signals(self.slopes, reading, size).first(self.classes)

    def _best(self, likelihood: Likelihood, signals: Signals, chance: Chance, pool: Pool) -> _Answer:
        if self.scaled:
            middle, width = 0.0, LIKENESS
        else:
            usual = float(likelihood.mean[: max(2, 2 * self.n // self.classes + 2)].abs().max())
            middle, width = math.log(max(float(signals.told.abs().max()), 1e-300) / max(usual, 1e-300)), 1.0
        steps = torch.linspace(-2.5, 2.5, 13).tolist()
        # Where a class does not occur, or once, its signal alone tells the factor.
        means = likelihood.means(chance)
        told = torch.cat([(signals.told / means[:, k]).clamp_min(0) for k in (0, 1)])
        told = (told[told > 0].log() - middle) / width
        told = told[told.abs() < 3].sort().values
        steps += told[torch.linspace(0, len(told) - 1, min(len(told), 16)).long()].tolist() if len(told) else []
        for _ in range(2):
            tried = [(step, sharp) for step in steps for sharp in range(len(SHARPNESS))]
            costs = torch.stack(
                [likelihood.costs(signals, chance, math.exp(middle + width * t), SHARPNESS[i]) for t, i in tried]
            )
            costs = costs + PRIOR * torch.lgamma(torch.arange(self.n + 1) + 1.0)
            few = (costs[..., 1:].amin(2) - costs[..., 0]).amin(0).argsort()[: 3 * self.n + 16].sort().values
            found, total = cheapest_counts(costs[:, few])
            total = total + costs[..., 0].sum(1) - costs[:, few, 0].sum(1)
            total = total + torch.tensor([t**2 / 2 + i for t, i in tried])
            counts = torch.zeros(costs.shape[:2], dtype=torch.long)
            counts[:, few] = found
            steps = []
            for at in total.argsort()[:4].tolist():  # the factor that fits these counts best
                mean = means.gather(1, counts[at][:, None]).squeeze(1)
                weight = likelihood.variances(signals, chance).gather(1, counts[at][:, None]).squeeze(1)
                weight = signals.known / weight
                fit = float((weight * mean * signals.told).sum() / (weight * mean.square()).sum())
                steps += [tried[at][0]] + ([(math.log(fit) - middle) / width] if fit > 0 else [])
        at = int(total.argmin())
        return _Answer(counts[at], float(total[at]), margin(costs[at], counts[at]), pool)

    def _through(self, rows: Tensor) -> Update:
        """A rehearsed update as the channel would send it."""
        split = self.rows.split(rows)
        tensors = {name: split[name].reshape(shape) for name, shape in self.rows.shapes.items()}
        if self.channel is not None:
            return self.channel(Update(tensors), generator=self.generator)
        return Update({name: self._like_received(name, t) for name, t in tensors.items()}, self.update.coding)

    def _like_received(self, name: str, tensor: Tensor) -> Tensor:
        """What an unknown channel may make of a tensor, told from what it made of the received one."""
        received = self.update.tensors[name]
        if len(received.unique()) < received.numel() / 4:  # sent are few values, or few of the entries
            order = tensor.flatten().argsort()
            return torch.empty_like(tensor).flatten().scatter_(0, order, received.flatten().sort().values).reshape(tensor.shape)
        noise = self._own_noise(name)
        scale = float(tensor.std() / received.std().clamp_min(1e-30))
        return tensor + scale * noise**0.5 * torch.randn(tensor.shape, generator=self.generator).to(tensor)

    def _own_noise(self, name: str) -> float:
        """Variance of the noise in a received tensor: without any, its rows sum to zero over the classes."""
        shares = []
        for key, y in self.rows.split(self.rows.of(self.update.tensors)).items():
            share = float(y.double().sum(0).square().mean() / y.double().square().sum(0).mean().clamp_min(1e-300))
            shares.append((y.shape[1], share, key))
        widest = max(shares)[1]  # a bias has one sum only, which says little
        own = next(share for width, share, key in shares if key == name)
        y = self.update.tensors[name].double()
        return min(max(own, widest), 1.0) * float(y.square().mean())

    def _noise(self, clean: list[Tensor], sent: list[Update]) -> dict[str, float]:
        """For each tensor, variance of the channel's error in an entry that was sent, in rehearsal."""
        found = {}
        for name in self.rows.shapes:
            errors, size = 0.0, 0
            for rows, update in zip(clean, sent, strict=True):
                x, y = self.rows.split(rows)[name].double(), update.tensors[name].double().reshape(len(rows), -1)
                if update.coding.sparse:
                    x, y = x[y != 0], y[y != 0]
                if not y.numel():
                    continue
                gain = float((x * y).sum() / x.square().sum().clamp_min(1e-300)) or 1.0
                errors += float((y - gain * x).square().sum())
                size += y.numel()
            found[name] = errors / max(size, 1)
        return found

    def _size(self, clean: list[Tensor], counts: list[Tensor]) -> float:
        """Variance of a row's coefficient: how strongly its class's pictures pull, picture by picture."""
        m = self.slopes.mean
        per_class = torch.stack([(rows.double() * m).sum(1) / m.square().sum(1) for rows in clean])
        k = torch.stack(counts).double().to(per_class)
        off = k - k.mean()
        pull = float((per_class * off).sum() / off.square().sum().clamp_min(1e-30))
        return max(pull**2 * max(1.0, self.n / self.classes), 1e-300)


def _check(rows: ClassRows) -> None:
    if rows.shapes:
        return
    if rows.missing:
        raise UsageError(
            f"labels: nothing was sent of the layer that gives the class scores ({', '.join(rows.missing)}), which is "
            "frozen or left out of the update, so labels cannot be inferred; let the attacker know the labels, or use "
            "an attack that searches them (dlg)"
        )
    raise UsageError(
        "labels: the model has no layer with a row of its own for each class's score, so labels cannot be inferred; "
        "let the attacker know the labels, or use an attack that searches them (dlg)"
    )
