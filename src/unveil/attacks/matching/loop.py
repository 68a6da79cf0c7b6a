"""Update matching: the attack of which every published preset is a setting."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.labels.inference import infer_labels
from unveil.attacks.matching.descent import StepReport, minimise
from unveil.attacks.matching.latents import Latent
from unveil.attacks.matching.optimisers import Optimiser
from unveil.attacks.matching.regularisers import TotalVariation
from unveil.core.batch import Batch
from unveil.core.gradient import slopes_of
from unveil.core.objectives import OBJECTIVES, ObjectiveName, checked
from unveil.core.protocols import Knowledge
from unveil.core.reconstruction import Reconstruction, Stop
from unveil.core.types import Images
from unveil.core.update import Update
from unveil.core.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Find the pictures whose simulated update is nearest to the received one.

    Minimises ``objective(training(model, decode(z)), received) + prior(decode(z))`` over the code z.

    Args:
        latent: The code that is searched.
        objective: Name of the distance between a candidate's update and the received one.
        optimiser: The optimiser of the search.
        steps: Steps of the optimiser, at least 0.
        prior: Regulariser of the pictures; None for none.
        soft_labels: Whether labels that are not known are searched too, as class probabilities. If not, they are
            inferred before the search.
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

        def believed() -> Int[Tensor, " n"] | Float[Tensor, "n classes"]:
            return labels.to(device) if labels is not None else torch.as_tensor(logits).softmax(1)

        def pictures() -> Images:
            return self.latent.decode(z, shape).detach().clamp(0, 1)

        misfit = OBJECTIVES[self.objective](update, knowledge)
        variables = [z] if logits is None else [z, logits]

        def closure() -> Float[Tensor, ""]:
            images = self.latent.decode(z, shape)
            loss = misfit(knowledge.simulate(model, Batch(images, believed())))
            if self.prior is not None:
                loss = loss + self.prior(images)
            for variable, slope in zip(variables, slopes_of(loss, variables), strict=True):
                variable.grad = slope.contiguous()  # L-BFGS takes flat views
            return loss.detach()

        losses, stop = minimise(
            z,
            closure,
            self.optimiser.start(variables, self.steps),
            self.steps,
            project=self.latent.project,
            images=pictures,
            report=StepReport(planned=self.steps, watch=watch),
            beside=variables[1:],
        )
        final = believed().detach()
        return Reconstruction(
            images=pictures(),
            labels=final if final.dim() == 1 else final.argmax(1),
            losses=losses,
            stop=stop,
            notes=tuple(notes),
        )


def blind_guess(knowledge: Knowledge, device: torch.device) -> Reconstruction:
    """Return mid-grey pictures, the guess of an attacker who has no update.

    Args:
        knowledge: Gives the number and the shape of the pictures, and the labels; unknown labels are returned as 0.
        device: Device of the pictures.
    """
    n = knowledge.num_images
    labels = torch.zeros(n, dtype=torch.long, device=device) if knowledge.labels is None else knowledge.labels
    grey = torch.full((n, *knowledge.image_shape), 0.5, device=device)
    return Reconstruction(images=grey, labels=labels, losses=[], stop=Stop.EMPTY)
