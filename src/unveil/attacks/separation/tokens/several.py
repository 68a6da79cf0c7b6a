"""The stage that decodes several pictures of a vision transformer from the sum of the errors of their tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.separation.gain.likelihood import is_known
from unveil.attacks.separation.heads.head import Head, NoHeadError
from unveil.attacks.separation.state import Problem, State
from unveil.attacks.separation.tokens.errors import token_errors
from unveil.attacks.separation.tokens.gradients import NoTokensError, TokenGradients, read_gradients
from unveil.attacks.separation.tokens.grid import PatchGrid, read_grid
from unveil.attacks.separation.tokens.last_features import last_features, read_last_layers
from unveil.attacks.separation.tokens.regression import fit_regression
from unveil.attacks.separation.tokens.samples import draw_samples, varied_leaves
from unveil.attacks.separation.tokens.stage import unexplained_by
from unveil.attacks.separation.tuning import FactorisationTuning
from unveil.attacks.separation.update_matching import MatchUpdates
from unveil.core.batch import Batch
from unveil.core.binding import for_receiver
from unveil.core.protocols import loss_of
from unveil.core.update import Update

MOST = 8  # pictures that are decoded
SAMPLES = 3  # synthetic pictures of each label for a step of the search
FIT_STEPS = 10  # steps of the regression for a step of the search
LIGHTLY = 0.2  # of its smoothness
GUIDED = 0.25  # of the learning rate of a search from grey, for one that starts at decoded pictures


@dataclass(frozen=True, kw_only=True)
class DecodeTokens:
    """Decode 2 to 8 pictures of distinct labels from the gradient of learned position embeddings.

    That gradient is the sum of the errors of the pictures' tokens. A picture's errors depend on its label and on its
    own pixels, so a network that is fitted to synthetic pictures with the batch's labels tells the pictures from the
    sum. Updates are matched from there, and the pictures that explain the update better are kept.

    Args:
        factorisation: The constants of the separation of the last features.
        refine: The search after it.
        samples: Synthetic pictures of each label, at least 2.
        fit_steps: Steps of the regression that is fitted to them, at least 1.
    """

    factorisation: FactorisationTuning
    refine: MatchUpdates
    samples: int
    fit_steps: int

    @classmethod
    def of(cls, matched: MatchUpdates, *, factorisation: FactorisationTuning) -> DecodeTokens:
        """Return the stage whose effort is in proportion to the steps of a search.

        Args:
            matched: The search of batches that cannot be separated; this one starts nearer, at a smaller rate.
            factorisation: The constants of the separation of the last features.
        """
        return cls(
            factorisation=factorisation,
            refine=replace(matched, lr=GUIDED * matched.lr, smoothness=LIGHTLY * matched.smoothness, starts=1),
            samples=max(2, SAMPLES * matched.steps),
            fit_steps=max(1, FIT_STEPS * matched.steps),
        )

    @property
    def steps(self) -> int:
        """One step for the decoded pictures, and those of the search."""
        return 1 + self.refine.steps

    def __call__(self, problem: Problem, state: State) -> State:
        """Return the state with the pictures and a note on how they were found; see `Stage`.

        Raises:
            NoTokensError: There is one picture, or the network or the update does not allow it.
        """
        if problem.knowledge.num_images == 1:
            raise NoTokensError("")
        found = read_gradients(problem)
        grid, head = check(problem, found)
        generator, names = problem.generator, {"embedding": found.embedding.weight, "last": head.weights[0]}
        gain, noise = rehearsed(problem, found, **names)
        samples = draw_samples(
            found.client,
            problem.labels,
            grid,
            count=self.samples,
            generator=generator,
            loss=loss_of(problem.knowledge.training),
            **names,
        )
        separated = None
        if noise == 0:
            try:
                separated = last_features(problem, head, gain=gain, tuning=self.factorisation).float()
            except NoHeadError:
                separated = None
        if separated is None:
            samples = replace(samples, features=samples.features[..., :0])
        network = fit_regression(samples, steps=self.fit_steps, noise=noise, generator=generator)
        total = grid.as_map(found.errors[None].float()) / gain
        features = samples.features[:1] if separated is None else separated[None]
        pictures = grid.pictures(network(total, features)[0]).clamp(0, 1)
        unexplained = unexplained_by(problem)
        decoded = unexplained(pictures)
        state = replace(state, pictures=pictures, losses=(*state.losses, decoded))
        problem.report(len(state.losses) - 1)(1, decoded, lambda: pictures)
        searched = self.refine(problem, state)
        better = unexplained(searched.pictures) < decoded
        note = sentence(found, head if separated is not None else None, len(pictures), better=better)
        return replace(searched, pictures=searched.pictures if better else pictures, notes=(*state.notes, note))


def check(problem: Problem, found: TokenGradients) -> tuple[PatchGrid, Head]:
    """Return the grid of patches and the last Linear layers, or say why several pictures cannot be decoded.

    Args:
        problem: Gives the labels and the knowledge.
        found: The gradients of the embeddings.

    Raises:
        NoTokensError: They cannot be decoded; the message says why.
    """
    labels, knowledge = problem.labels, problem.knowledge
    end = ": the pictures were not decoded from the tokens' errors."
    if len(labels) > MOST:
        raise NoTokensError(
            f"The position embeddings ({found.positions}) hold the tokens' errors only summed over the batch, and "
            f"sums over more than {MOST} pictures, here {len(labels)}, are not taken apart{end}"
        )
    if len(torch.unique(labels)) < len(labels):
        raise NoTokensError(
            f"The position embeddings ({found.positions}) hold the tokens' errors only summed over the batch, and "
            f"pictures of one class cannot be told apart in that sum{end}"
        )
    if not is_known(knowledge):
        raise NoTokensError(
            f"The position embeddings ({found.positions}) hold the tokens' errors summed over the batch, which are "
            f"told apart by their length, and the attacker does not know the length of the update{end}"
        )
    grid = read_grid(found.embedding, knowledge.image_shape)
    if grid is None:
        raise NoTokensError(f"The patches of {found.embedding.weight} are not rectangles side by side{end}")
    try:
        return grid, read_last_layers(problem)
    except NoHeadError as reason:
        raise NoTokensError(f"{str(reason).split(':', maxsplit=1)[0].rstrip('.')}{end}") from None


def rehearsed(problem: Problem, found: TokenGradients, *, embedding: str, last: str) -> tuple[float, float]:
    """Return how long the update is relative to one gradient, and the noise that the obfuscation adds to the errors.

    The client is simulated on synthetic pictures, whose update is obfuscated in the same way.

    Args:
        problem: Gives the network, the client's training and the obfuscation.
        found: The gradients of the embeddings.
        embedding: Name of the patch embedding's weight.
        last: Name of the last Linear layer's weight.

    Returns:
        The gain, and the standard deviation of the noise in an entry of the errors, divided by the gain.
    """
    knowledge, labels, generator = problem.knowledge, problem.labels, problem.generator
    pictures = varied_leaves(len(labels), knowledge.image_shape, generator=generator).to(labels.device)
    sent = Update(knowledge.training(problem.model, Batch(pictures, labels), generator=generator))
    loss = loss_of(knowledge.training)
    errors, _ = token_errors(found.client, pictures, labels, embedding=embedding, last=last, loss=loss)
    total = errors.sum(0)
    own = found.tokens_of(sent).to(total)
    gain = float((own * total).sum() / total.square().sum().clamp_min(1e-30))
    obfuscation = knowledge.obfuscation
    if obfuscation is None or obfuscation.family == "none":
        return gain, 0.0
    arrived: Float[Tensor, "tokens width"] = found.tokens_of(
        for_receiver(obfuscation, problem.update)(sent, generator=generator)
    ).to(total)
    return gain, float((arrived - own).square().mean().sqrt() / abs(gain))


def sentence(found: TokenGradients, head: Head | None, count: int, *, better: bool) -> str:
    """Return the note on how the pictures were found.

    Args:
        found: The gradients of the embeddings.
        head: The last Linear layers; None if their features were not separated.
        count: Number of pictures.
        better: Whether the search improved the decoded pictures.
    """
    tokens, width = found.errors.shape
    features = "" if head is None else f" The features before {head.weights[0]} were separated first, exactly."
    search = "improved them" if better else "explained it no better, and was discarded"
    return (
        f"The {count} pictures were decoded from the gradient of the position embeddings ({found.positions}), which is "
        f"the sum of their tokens' errors ({tokens} tokens of width {width}), by a network fitted to synthetic "
        f"pictures with the same labels.{features} The search for pictures with the same update {search}."
    )
