"""Which labels a batch had, read off the update of the last layer."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.labels.arrival import Arrival
from unveil.attacks.labels.counts import Counts, likeliest_counts
from unveil.attacks.labels.evidence import Slopes, class_signals, read, slopes_of
from unveil.attacks.labels.likelihood import Chance, Signals, learn
from unveil.attacks.labels.public import public_pictures
from unveil.attacks.labels.rehearsal import Pool, rehearse, shuffled_labels
from unveil.attacks.labels.rows import ClassRows, read_rows
from unveil.core.errors import UsageError
from unveil.core.factored import dense
from unveil.core.protocols import Knowledge, MayRescale
from unveil.core.types import Batch, Images, Update

BOOSTS = (1.5, 3.0, 5.0)  # by how much a trained model may favour the true class, in logits
LIKENESS = 0.3  # standard deviation of the logarithm of the size of real pictures' features beside synthetic ones'
UNLIKE = 1.0  # the same of the update's length, where nothing else is known of it
UNDECIDED = 0.95  # share of the largest entropy above which a model's guesses are those of one that was never trained
ROUNDS = 12  # rehearsals of one assumption
ENTRIES = 1 << 23  # entries of the last layer that are rehearsed for one assumption, which bounds the rounds
EXACT = 1e-3  # share of the rows' length that their sum may have where the obfuscation added nothing


def infer_labels(model: Module, update: Update, knowledge: Knowledge) -> tuple[Tensor, str]:
    """Infer how often each class occurs in the batch.

    The slope of the loss with respect to class c's score is ``p_c - [y = c]`` for each picture, and every row of the
    last layer's update is made of it: see `evidence` for how one number a class is read from weights and biases
    together. What that number is for a class that occurs k times is learned from rehearsals (`rehearsal`,
    `likelihood`): the last layer is trained on public pictures with labels that the attacker chose, and sent through
    the obfuscation. The counts of highest likelihood that sum to n are the labels.

    For one picture there is iDLG's criterion besides: the true class's is the only row whose inner products with all
    others are negative, whatever the features' signs.

    Args:
        model: The public model. Its last layer is found by differentiating its scores.
        update: What was received: a gradient, or a weight difference.
        knowledge: Tells the local training, the obfuscation if it is known, and the number of pictures and classes.

    Returns:
        The n labels in ascending order (reconstructions are matched to the originals afterwards), and a sentence on
        how they were found and how sure they are.

    Raises:
        UsageError: The model has no layer with a row for each class, or nothing of it was sent.

    Reference:
        Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020 (one picture);
        Wainakh et al., User-Level Label Leakage from Gradients in Federated Learning, PoPETs 2022 (counts).
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    images = public_pictures(knowledge.image_shape).to(like.device)
    rows = read_rows(model, images, update.tensors, mode=knowledge.training.mode, draws=knowledge.draws)
    _check(rows)
    n, classes = knowledge.num_images, min(knowledge.classes, rows.scores.shape[1])
    used = ", ".join(rows.shapes)
    received = rows.of(update.tensors)
    if not bool(received.any()):
        return torch.arange(n, device=images.device).remainder(classes).sort().values, (
            f"Nothing arrived of the last layer ({used}), so the labels are guessed."
        )
    found = alone(received[:classes]) if n == 1 else None
    if found is not None:
        return torch.tensor([found], device=images.device), (
            f"The label was inferred from the update of the last layer ({used}): its row is the only one that points "
            "against all others, which is certain."
        )
    inference = _Inference(model, rows, images, update, knowledge, classes)
    counts = inference.counts()
    labels = torch.repeat_interleave(torch.arange(classes), counts.numbers).to(images.device)
    return labels, (
        f"The labels were inferred from the update of the last layer ({used}), each entry as sure as the obfuscation "
        f"leaves it; the next best labels are {math.exp(-max(counts.margin, 0.0)):.1g} times as likely."
    )


def alone(rows: Float[Tensor, "classes entries"]) -> int | None:
    """IDLG's criterion for one picture: the class whose row's inner products with all others are negative.

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


class _Inference:
    """One inference: what was received, and the rehearsals that say what it means."""

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
        """The likeliest, over how well the model may know its pictures already."""
        plain = Pool(self.rows.slopes, self.rows.scores)
        best, pool = self._likeliest(plain, None), plain
        entropy = float(torch.special.entr(plain.scores.softmax(1)).sum(1).mean())
        for boost in BOOSTS if entropy < UNDECIDED * math.log(plain.scores.shape[1]) else ():
            trained = plain.known(boost)
            other = self._likeliest(trained, None)
            if other.cost > best.cost:
                break
            best, pool = other, trained
        return self._likeliest(pool, torch.repeat_interleave(torch.arange(self.classes), best.numbers))

    def _factor(self, model: Module, images: Images) -> float:
        """How much larger the client's whole update of the rows is than a rehearsal's, which keeps the features."""
        generator = Generator().manual_seed(1)
        labels = next(shuffled_labels(self.n, self.classes, 1, near=None, generator=generator)).to(images.device)
        pictures = len(self.rows.scores)
        drawn = torch.randperm(pictures, generator=generator)[torch.arange(self.n) % pictures]
        whole = self.knowledge.simulate(model, Batch(images[drawn], labels))
        sent = self.rows.of({name: dense(whole[name]).detach() for name in self.rows.shapes})
        pool = Pool(self.rows.slopes, self.rows.scores)
        training = self.knowledge.training
        own = rehearse(training, self.rows, pool, labels, drawn, generator=generator)
        return max(float((sent * own).sum() / own.square().sum().clamp_min(1e-30)), 1e-6)

    def _likeliest(self, pool: Pool, near: Tensor | None) -> Counts:
        """The likeliest counts if the client's pictures are to the model what the pool's are.

        Args:
            pool: Public pictures.
            near: Labels to rehearse with others near them; None for labels of all kinds.
        """
        training, outputs = self.knowledge.training, self.rows.scores.shape[1]
        clean: list[Tensor] = []
        sent: list[Tensor] = []
        counts: list[Tensor] = []
        for labels in shuffled_labels(self.n, self.classes, self.rounds, near=near, generator=self.generator):
            labels = labels.to(self.rows.values.device)
            drawn = torch.randint(len(pool.scores), labels.shape, generator=self.generator)
            rows = rehearse(training, self.rows, pool, labels, drawn, generator=self.generator)
            if self.noisy is not False:  # the first rehearsal tells whether the client adds noise in training
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
        # Where no obfuscation is known, there may be none; else the update's own length is all there is to go by.
        sizes = [(0.0, LIKENESS)] if self.scaled else [(longer, UNLIKE)]
        sizes += [(longer, UNLIKE)] if self.scaled and self.knowledge.obfuscation is None else []
        found = [
            likeliest_counts(likelihood, received, chance, num_images=self.n, middle=middle, width=width)
            for middle, width in sizes
        ]
        return min(found, key=lambda counts: counts.cost)

    def _size(self, clean: list[Tensor], counts: list[Tensor]) -> float:
        """Variance of a row's coefficient: how strongly its class's pictures pull, picture by picture."""
        m = self.slopes.mean
        pulls = torch.stack([(rows.double() * m).sum(1) / m.square().sum(1).clamp_min(1e-300) for rows in clean])
        k = torch.stack(counts).to(pulls)
        off = k - k.mean()
        pull = float((pulls * off).sum() / off.square().sum().clamp_min(1e-30))
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
