"""Update matching: the one optimisation loop behind every preset."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.labels.inference import infer_labels
from unveil.attacks.matching.latents import Latent
from unveil.attacks.matching.optimisers import Optimiser, Step
from unveil.attacks.matching.regularisers import TotalVariation
from unveil.core.objectives import OBJECTIVES, ObjectiveName, checked
from unveil.core.protocols import Knowledge
from unveil.core.types import Batch, Progress, Reconstruction, Stop, Update, Watch

PATIENCE = 25  # steps over which the loss may stay the same before a run counts as stalled


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Find the pictures whose simulated update looks like the received one.

    Minimises ``objective(training(model, decode(z)), received) + prior(decode(z))`` over the code z.

    Args:
        latent: What is searched.
        objective: How far a candidate's update is from the received one.
        optimiser: How the search walks.
        steps: Steps it takes, at least 0.
        prior: What is assumed of pictures.
        soft_labels: Search the labels too, as class probabilities, where they are not known.
    """

    latent: Latent
    objective: ObjectiveName
    optimiser: Optimiser
    steps: int
    prior: TotalVariation | None = None
    soft_labels: bool = False

    def __call__(
        self,
        model: Module,
        update: Update,
        knowledge: Knowledge,
        *,
        generator: Generator,
        watch: Watch | None = None,
    ) -> Reconstruction:
        """Run the search; see `Attack`."""
        device = checked(model, update)
        shape, n = knowledge.image_shape, knowledge.num_images
        if update.is_zero:
            return blind_guess(knowledge, device)

        z = self.latent.init(n, shape, generator=generator).to(device).requires_grad_()
        notes: list[str] = []
        labels = knowledge.labels
        if labels is None and not self.soft_labels:
            labels, note = infer_labels(model, update, knowledge)
            notes.append(note)
        logits = None
        if labels is None:
            logits = torch.randn((n, knowledge.classes), generator=generator, device=generator.device)
            logits = logits.to(device).requires_grad_()
            notes.append("The labels were searched together with the pictures, as class probabilities.")

        def believed() -> Tensor:
            return labels.to(device) if labels is not None else torch.as_tensor(logits).softmax(1)

        def pictures() -> Tensor:
            return self.latent.decode(z, shape).detach().clamp(0, 1)

        def result(losses: list[float], stop: Stop) -> Reconstruction:
            final = believed().detach()
            return Reconstruction(
                images=pictures(),
                labels=final if final.dim() == 1 else final.argmax(1),
                losses=losses,
                stop=stop,
                notes=tuple(notes),
            )

        misfit = OBJECTIVES[self.objective](update, knowledge)
        variables = [z] if logits is None else [z, logits]

        def closure() -> Tensor:
            images = self.latent.decode(z, shape)
            loss = misfit(knowledge.simulate(model, Batch(images, believed())))
            if self.prior is not None:
                loss = loss + self.prior(images)
            for variable, slope in zip(variables, torch.autograd.grad(loss, variables), strict=True):
                variable.grad = slope.contiguous()  # L-BFGS takes flat views
            return loss.detach()

        walk = Walk(steps=self.steps, watch=watch)
        stop = walk.go(
            z, closure, self.optimiser.start(variables, self.steps), self.steps, self.latent.project, pictures
        )
        return result(walk.losses, stop)


@dataclass(kw_only=True)
class Walk:
    """The steps of a search so far, over all its stages.

    Args:
        steps: All that are planned.
        watch: Told of each step.
        losses: The loss before each step.
    """

    steps: int
    watch: Watch | None = None
    losses: list[float] = field(default_factory=list)

    def note(self, loss: float, pictures: Tensor) -> None:
        """A step that was taken at once, without a search."""
        self.losses.append(loss)
        if self.watch is not None:
            self.watch(Progress(len(self.losses), self.steps, loss, lambda: pictures))

    def go(
        self,
        z: Tensor,
        closure: Callable[[], Tensor],
        step: Step,
        steps: int,
        project: Callable[[Tensor], None],
        pictures: Callable[[], Tensor],
        *,
        least: float = 0.0,
    ) -> Stop:
        """The one optimisation loop: step, project, tell; z ends at its best where the loss stops being a number.

        Args:
            z: What is searched, changed in place.
            closure: Computes the loss and its gradients.
            step: The optimiser.
            steps: How many to take.
            project: Brings z back to where it is allowed to be.
            pictures: What z stands for.
            least: Share of the loss by which it must change in `PATIENCE` steps.
        """
        best, best_z = math.inf, z.detach().clone()
        recent: deque[float] = deque(maxlen=PATIENCE + 1)
        for _ in range(steps):
            before = z.detach().clone()
            loss = float(step(closure))
            if not math.isfinite(loss) or not bool(torch.isfinite(z).all()):
                with torch.no_grad():
                    z.copy_(best_z)
                return Stop.DIVERGED
            if loss < best:
                best, best_z = loss, before
            with torch.no_grad():
                project(z)
            recent.append(loss)
            self.losses.append(loss)
            if self.watch is not None:
                self.watch(Progress(len(self.losses), self.steps, loss, pictures))
            if len(recent) > PATIENCE and max(recent) - min(recent) <= least * abs(max(recent)):
                return Stop.STALLED
        return Stop.FINISHED


def blind_guess(knowledge: Knowledge, device: torch.device) -> Reconstruction:
    """Mid-grey pictures: what one would answer without an update."""
    n = knowledge.num_images
    labels = torch.zeros(n, dtype=torch.long, device=device) if knowledge.labels is None else knowledge.labels
    grey = torch.full((n, *knowledge.image_shape), 0.5, device=device)
    return Reconstruction(images=grey, labels=labels, losses=[], stop=Stop.EMPTY)
