"""Label inference: the labels of a batch, computed from the update of the last layer."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.labels.arrival import Arrival
from unveil.attacks.labels.counts import Counts, likeliest_counts
from unveil.attacks.labels.evidence import Slopes, class_signals, read, slopes_of
from unveil.attacks.labels.likelihood import Chance, Signals, learn
from unveil.attacks.labels.public import public_pictures
from unveil.attacks.labels.rehearsal import Pool, rehearse, shuffled_labels
from unveil.attacks.labels.rows import ClassRows, read_rows
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.factored import dense
from unveil.core.protocols import Knowledge, MayRescale, loss_of
from unveil.core.types import Images
from unveil.core.update import Update

BOOSTS = (1.5, 3.0, 5.0)  # logits by which a trained model may prefer the true class; all are tried
LIKENESS = 0.3  # standard deviation of log(size of real pictures' features / size of synthetic pictures' features)
UNLIKE = 1.0  # standard deviation of the logarithm of the update's length if the attacker does not know its scale
UNDECIDED = 0.95  # a model whose predictions have more than this share of the largest entropy counts as untrained
ROUNDS = 12  # rehearsals for each assumption about the model
ENTRIES = 1 << 23  # entries of the last layer that are rehearsed for each assumption; more entries mean fewer rounds
EXACT = 1e-3  # if |sum of the rows| / |rows| is at most this, the obfuscation counts as exact


def infer_labels(model: Module, update: Update, knowledge: Knowledge) -> tuple[Int[Tensor, " n"], str]:
    """Infer how often each class occurs in the batch.

    The slope of the loss with respect to the score of class c is ``p_c - [y = c]`` for each picture, and each row of
    the last layer's update is a sum of such slopes times features. Module `evidence` computes one number for each class
    from the row's weights and biases. The attacker learns from rehearsals which number a class has that occurs k times
    (modules `rehearsal` and `likelihood`): it trains the last layer on public pictures with chosen labels, and sends
    the result through the obfuscation. The labels are the counts with sum n that have the highest likelihood.

    A batch of one picture is first tested with iDLG's criterion: only the row of the true class has negative inner
    products with all other rows, whatever the signs of the features.

    Args:
        model: The public model. Its last layer is identified by differentiating its scores.
        update: The received update: a gradient, or a difference of weights.
        knowledge: What the attacker knows: the local training, the number of pictures and of classes, and the
            obfuscation if it is known.

    Returns:
        The n class indices in ascending order (reconstructions are matched to the originals later), and a sentence that
        says how the labels were inferred and how certain they are.

    Raises:
        UsageError: The model has no layer with one row for each class, or the update holds no tensor of that layer,
            or the client's loss is another one than the cross-entropy, and more than one picture was trained on.

    Reference:
        Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020 (one picture);
        Wainakh et al., User-Level Label Leakage from Gradients in Federated Learning, PoPETs 2022 (counts).
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    images = public_pictures(knowledge.image_shape).to(like.device)
    rows = read_rows(model, images, update.tensors, mode=knowledge.training.mode, draws=knowledge.draws)
    n, classes = knowledge.num_images, min(knowledge.classes, rows.scores.shape[1])
    is_withheld = not rows.shapes and bool(set(rows.missing) & set(knowledge.withheld))
    if not is_withheld:
        _check(rows)
    used = ", ".join(rows.shapes or rows.missing)
    if is_withheld or not bool(rows.of(update.tensors).any()):
        return torch.arange(n, device=images.device).remainder(classes).sort().values, (
            f"Nothing arrived of the last layer ({used}), so the labels are guessed."
        )
    received = rows.of(update.tensors)
    label = idlg_label(received[:classes]) if n == 1 else None
    if label is not None:
        return torch.tensor([label], device=images.device), (
            f"The label was inferred from the update of the last layer ({used}): its row is the only one that points "
            "against all others, which is certain."
        )
    if (loss := loss_of(knowledge.training).name) != "cross_entropy":
        raise UsageError(
            f"labels: {loss} is the client's loss, and labels are inferred from a softmax's cross-entropy only; let "
            "the attacker know the labels"
        )
    inference = _Inference(model, rows, images, update, knowledge, classes)
    counts = inference.counts()
    labels = torch.repeat_interleave(torch.arange(classes), counts.numbers).to(images.device)
    return labels, (
        f"The labels were inferred from the update of the last layer ({used}), each entry as sure as the obfuscation "
        f"leaves it; the next best labels are {math.exp(-max(counts.margin, 0.0)):.1g} times as likely."
    )


def idlg_label(rows: Float[Tensor, "classes entries"]) -> int | None:
    """Apply iDLG's criterion for one picture: the row of its class has negative inner products with all other rows.

    Args:
        rows: The received rows of the last layer, one for each class.

    Returns:
        The class index. None if the inner products of the other rows with one another are not all positive, which noise
        may cause, or if there are too few classes to rule out chance: fewer than 3 for exact rows, 6 for noisy ones.

    Reference:
        Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020.
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


class _Inference:
    """The state of one inference: the received rows, the last layer, and the settings of the rehearsals."""

    def __init__(
        self, model: Module, rows: ClassRows, images: Images, update: Update, knowledge: Knowledge, classes: int
    ) -> None:
        self.rows, self.knowledge, self.classes = rows, knowledge, classes
        self.n = knowledge.num_images
        self.generator = Generator().manual_seed(0)
        self.noisy: bool | None = None
        self.received = Update({name: update.tensors[name] for name in rows.shapes}, update.coding)
        self.arrival = Arrival(rows, self.received, knowledge.obfuscation, self.generator)
        self.slopes: Slopes = slopes_of(rows)
        self.rounds = min(ROUNDS, max(4, ENTRIES // rows.values.numel()))
        obfuscation = knowledge.obfuscation
        lossy = obfuscation is not None and isinstance(obfuscation, MayRescale) and obfuscation.scale_unknown
        self.scaled = knowledge.scale and not lossy
        self.factor = self._factor(model, images) if self.scaled else 1.0

    def counts(self) -> Counts:
        """Return the counts of the highest likelihood over all assumed boosts of the true class."""
        plain = Pool(self.rows.slopes, self.rows.scores)
        best, pool = self._likeliest(plain, None), plain
        entropy = float(torch.special.entr(plain.scores.softmax(1)).sum(1).mean())
        for boost in BOOSTS if entropy < UNDECIDED * math.log(plain.scores.shape[1]) else ():
            trained = plain.after_training(boost)
            other = self._likeliest(trained, None)
            if other.cost > best.cost:
                break
            best, pool = other, trained
        return self._likeliest(pool, torch.repeat_interleave(torch.arange(self.classes), best.numbers))

    def _factor(self, model: Module, images: Images) -> float:
        """Return the ratio of the rows' update in full local training to that in a rehearsal.

        Full local training also changes the features, which a rehearsal keeps.
        """
        generator = Generator().manual_seed(1)
        labels = next(shuffled_labels(self.n, self.classes, 1, near=None, generator=generator)).to(images.device)
        pictures = len(self.rows.scores)
        drawn = torch.randperm(pictures, generator=generator)[torch.arange(self.n) % pictures]
        whole = self.knowledge.simulate(model, Batch(images[drawn], labels))
        sent = self.rows.of({name: dense(whole[name]).detach() for name in self.rows.shapes})
        pool = Pool(self.rows.slopes, self.rows.scores)
        training = self.knowledge.training
        rehearsed = rehearse(training, self.rows, pool, labels, drawn, generator=generator)
        return max(float((sent * rehearsed).sum() / rehearsed.square().sum().clamp_min(1e-30)), 1e-6)

    def _likeliest(self, pool: Pool, near: Int[Tensor, " n"] | None) -> Counts:
        """Return the counts of the highest likelihood, assuming that the client's pictures are like those of the pool.

        Args:
            pool: The public pictures.
            near: Labels to which the labels of the rehearsals are similar; None for labels of all kinds.
        """
        training, outputs = self.knowledge.training, self.rows.scores.shape[1]
        clean: list[Tensor] = []
        sent: list[Tensor] = []
        counts: list[Tensor] = []
        for labels in shuffled_labels(self.n, self.classes, self.rounds, near=near, generator=self.generator):
            labels = labels.to(self.rows.values.device)
            drawn = torch.randint(len(pool.scores), labels.shape, generator=self.generator)
            rows = rehearse(training, self.rows, pool, labels, drawn, generator=self.generator)
            if self.noisy is not False:  # the first rehearsal shows whether the client adds noise in training
                noised = rehearse(training, self.rows, pool, labels, drawn, generator=self.generator, noisy=True)
                self.noisy = not torch.equal(rows, noised)
            clean.append(self.factor * rows)
            sent.append(self.factor * noised if self.noisy else clean[-1])
            counts.append(torch.bincount(labels, minlength=outputs).cpu())
        arrived = [self.arrival(rows) for rows in sent]
        noise = self.arrival.noise(clean, arrived)
        size = self._size(clean, counts)

        def signals(update: Update) -> Signals:
            reading = read(self.rows, update, self.knowledge.obfuscation, noise)
            return class_signals(self.slopes, reading, size).first(self.classes)

        chances = pool.scores.softmax(1).double().cpu()[:, : self.classes]
        chance = Chance(chances.mean(0) - chances.mean(), chances.var(0))
        rehearsed = [signals(update) for update in arrived]
        likelihood = learn(rehearsed, [k[: self.classes] for k in counts], chance, self.n)
        received = signals(self.received)
        usual = torch.stack([s.values.abs().max() for s in rehearsed]).median()
        longer = math.log(max(float(received.values.abs().max()), 1e-300) / max(float(usual), 1e-300))
        # If the attacker knows the scale, the update is about as long as a rehearsal. If not, only the update's length
        # says how large the factor is. Both are tried if an unknown obfuscation may have changed the scale.
        sizes = [(0.0, LIKENESS)] if self.scaled else [(longer, UNLIKE)]
        sizes += [(longer, UNLIKE)] if self.scaled and self.knowledge.obfuscation is None else []
        candidates = [
            likeliest_counts(likelihood, received, chance, num_images=self.n, middle=middle, width=width)
            for middle, width in sizes
        ]
        return min(candidates, key=lambda counts: counts.cost)

    def _size(self, clean: list[Float[Tensor, "out entries"]], counts: list[Int[Tensor, " out"]]) -> float:
        """Estimate the variance of the factor by which a slope is multiplied in a row, in the squared update unit.

        Args:
            clean: The rows of each rehearsal before the obfuscation.
            counts: How often each class occurred in each rehearsal.
        """
        m = self.slopes.mean
        pulls = torch.stack([(rows.double() * m).sum(1) / m.square().sum(1).clamp_min(1e-300) for rows in clean])
        k = torch.stack(counts).to(pulls)
        off = k - k.mean()
        pull = float((pulls * off).sum() / off.square().sum().clamp_min(1e-30))
        return max(pull**2 * max(1.0, self.n / self.classes), 1e-300)


def _check(rows: ClassRows) -> None:
    """Raise a `UsageError` if the update has no tensor with class rows."""
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
