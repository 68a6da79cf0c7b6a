"""The stage that reads one picture from the gradients of a transformer's patch and position embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.state import Problem, State
from unveil.attacks.separation.tokens.gradients import NoTokensError, read_gradients
from unveil.attacks.separation.tokens.solving import TokenEquations
from unveil.attacks.separation.update_matching import MatchUpdates
from unveil.core.batch import Batch
from unveil.core.binding import for_receiver
from unveil.core.objectives import OBJECTIVES
from unveil.core.protocols import HasEntryModels
from unveil.core.types import Images
from unveil.core.update import Update

NOISES = (1e-6, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)  # relative; the first is that of float32
SOLVING_STEPS = 150  # of each of them; the next one starts where the one before it ended
EXPLAINED = 1e-5  # cosine distance or misfit at which a picture explains the update, and no other is tried
FLOOR = 0.3  # levels below this share of the obfuscation's own noise are not tried: they fit the noise


@dataclass(frozen=True, kw_only=True)
class ReadTokens:
    """Read one picture from the gradients of the patch embedding and of learned position embeddings.

    The equations are solved for several levels of noise, from that of the obfuscation upwards; the picture that
    explains the whole update best is taken. Where it leaves something unexplained, updates are matched from there, and
    the better of the two pictures is kept.

    Args:
        smoothness: Weight of the total variation, in nats for a slope of one pixel value a pixel; at least 0.
        refine: The search after it, for updates that are not exact.
    """

    smoothness: float
    refine: MatchUpdates

    @property
    def steps(self) -> int:
        """One step for each level of noise, and those of the search."""
        return len(NOISES) + self.refine.steps

    def __call__(self, problem: Problem, state: State) -> State:
        """Return the state with the picture and a note on how it was found; see `Stage`.

        Raises:
            NoTokensError: The network or the update has no such gradients, or there are several pictures.
        """
        equations, names = read_equations(problem)
        unexplained = unexplained_by(problem)
        report = problem.report(len(state.losses))
        free, tried = state.pictures, list[tuple[float, float, Images]]()
        least = FLOOR * rehearsed_noise(problem, names[0])
        levels = [noise for noise in NOISES if noise >= least] or [NOISES[-1]]
        for number, noise in enumerate(levels, start=1):
            smoothness = max(self.smoothness, 1e-6)
            free = equations.picture(free, noise=noise, smoothness=smoothness, steps=SOLVING_STEPS)
            tried.append((unexplained(pictures := free.clamp(0, 1)), noise, pictures))
            report(number, tried[-1][0], lambda pictures=pictures: pictures)  # type: ignore[misc]
            if tried[-1][0] < EXPLAINED:
                break
        best, noise, pictures = min(tried, key=lambda each: each[0])
        state = replace(state, pictures=pictures, losses=(*state.losses, *(loss for loss, _, _ in tried)))
        note = sentence(equations, names, noise)
        if best < EXPLAINED:
            return replace(state, notes=(*state.notes, note))
        searched = self.refine(problem, state)
        better = unexplained(searched.pictures) < best
        note += (
            " The search for pictures with the same update improved it."
            if better
            else " The search for pictures with the same update explained it no better, and was discarded."
        )
        return replace(searched, pictures=searched.pictures if better else pictures, notes=(*state.notes, note))


def unexplained_by(problem: Problem) -> Callable[[Images], float]:
    """Return the function that says how badly pictures explain the update: the distance by which updates are matched.

    Args:
        problem: Gives the update, the network and the knowledge.
    """
    knowledge = problem.knowledge
    misfit = OBJECTIVES["misfit" if isinstance(knowledge.obfuscation, HasEntryModels) else "cosine"](
        problem.update, knowledge
    )

    def unexplained(images: Images) -> float:
        value: Float[Tensor, ""] = misfit(knowledge.simulate(problem.model, Batch(images, problem.labels))).detach()
        return float(value)

    return unexplained


def read_equations(problem: Problem) -> tuple[TokenEquations, tuple[str, str]]:
    """Return the equations of a picture's patches, and the names of the patch and the position embeddings.

    Raises:
        NoTokensError: The network or the update has no such gradients, or there are several pictures.
    """
    if problem.knowledge.num_images != 1:
        raise NoTokensError("")
    found = read_gradients(problem)
    embedding, errors = found.embedding, found.errors
    gradient = (found.weight - errors.T @ embedding.offset) / embedding.scale
    equations = TokenEquations(errors, gradient, embedding.pixels, problem.knowledge.image_shape)
    return equations, (embedding.weight, found.positions)


def rehearsed_noise(problem: Problem, name: str) -> float:
    """Return how much the obfuscation changes one gradient, relative to its length; 0 if it is not known.

    The client is simulated on a synthetic picture, whose update is obfuscated in the same way.

    Args:
        problem: Gives the network, the client's training and the obfuscation.
        name: Name of the parameter.
    """
    knowledge, generator = problem.knowledge, problem.generator
    obfuscation = knowledge.obfuscation
    if obfuscation is None or obfuscation.family == "none":
        return 0.0
    pictures = dead_leaves(1, knowledge.image_shape, generator=generator).to(problem.labels.device)
    sent = Update(knowledge.training(problem.model, Batch(pictures, problem.labels), generator=generator))
    rehearsed = for_receiver(obfuscation, problem.update)(sent, generator=generator)
    own, received = sent.tensors[name], rehearsed.tensors[name]
    return float((received - own).norm() / own.norm().clamp_min(1e-30))


def sentence(equations: TokenEquations, names: tuple[str, str], noise: float) -> str:
    """Return the note on how a picture was found.

    Args:
        equations: The equations of its patches.
        names: Names of the patch and the position embeddings.
        noise: The level of noise that was taken.
    """
    tokens, width = equations.errors.shape
    rank, condition = equations.conditioning
    level = "the update counts as exact" if noise == NOISES[0] else f"{noise:g} of the gradient was taken for noise"
    held = "" if rank == tokens else " The smallest total variation decided what is not determined."
    return (
        f"The picture was read from the gradients of the patch embedding ({names[0]}) and the position embeddings "
        f"({names[1]}): {tokens} tokens of width {width}, rank {rank}, condition {condition:.1e}; {level}.{held}"
    )
