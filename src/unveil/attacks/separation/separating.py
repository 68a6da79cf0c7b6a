"""The first stage of unveil's attack: it separates the batch, and decodes each image's features to a first picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.alike import find_alike, separate_alike
from unveil.attacks.separation.decoder import fit_decoder
from unveil.attacks.separation.estimate_gain import first_estimate
from unveil.attacks.separation.factorisation import first_guess, separate
from unveil.attacks.separation.gain.levels import level
from unveil.attacks.separation.gain.likelihood import first_gain, is_known
from unveil.attacks.separation.head_descent import unknown_columns
from unveil.attacks.separation.heads.head import NoHeadError, read_head
from unveil.attacks.separation.refinement import FeatureRefiner
from unveil.attacks.separation.stages import feature_sensitivity_of
from unveil.attacks.separation.state import Problem, State
from unveil.attacks.separation.trained_heads import separate_trained
from unveil.attacks.separation.tuning import ClosedGatesTuning, FactorisationTuning, SearchTuning
from unveil.core.protocols import EntryModel, HasEntryModels
from unveil.core.types import Images


@dataclass(frozen=True, kw_only=True)
class SeparateBatch:
    """Separate the batch behind the network's Linear layers, and decode the first pictures.

    Args:
        factorisation: The constants of the factorisation.
        search: The constants of the search, which give the factor of the regulariser's weight for the network.
        closed_gates: The constants of the search for the errors of images behind a trained head.
        steps: Steps of the attack that the stage counts as.
    """

    factorisation: FactorisationTuning
    search: SearchTuning
    closed_gates: ClosedGatesTuning
    steps: int = 1

    def __call__(self, problem: Problem, state: State) -> State:
        """Return the state with a refiner and the decoded pictures; see `Stage`.

        Raises:
            NoHeadError: The batch cannot be separated behind this network.
        """
        knowledge, obfuscation, labels = problem.knowledge, problem.knowledge.obfuscation, problem.labels
        generator, received = problem.generator, problem.update.tensors
        head = read_head(
            problem.model, knowledge.image_shape, training=knowledge.training, draws=knowledge.draws, sent=received
        )
        gradients = [received[name].to(head.kind) for name in head.weights]
        equations = gradients[0].shape[0]
        if knowledge.num_images > equations:
            raise NoHeadError(
                f"The batch has {knowledge.num_images} images and its Linear layer only {equations} outputs, so there "
                "are fewer equations than unknowns: the batch was not separated."
            )
        if not bool(gradients[0].any()):
            raise NoHeadError("Nothing of the Linear layer was sent: the batch was not separated.")
        decoder = fit_decoder(head, generator=generator)
        levelled = None
        if not is_known(knowledge):
            levelled = level(
                problem.model, problem.update, knowledge, labels, reference=head.weights[0], generator=generator
            )
            gradients = [levelled.tensors[name].to(head.kind) for name in head.weights]
        leaves = dead_leaves(2, knowledge.image_shape, generator=generator).to(gradients[0].device)
        sensitivity = feature_sensitivity_of(head, leaves, tuning=self.search, generator=generator)
        gain, factor = first_gain(head, knowledge, gradients, labels, decoder.examples, known=levelled is None)
        sent = replace(problem.update, tensors={name: tensor.to(head.kind) for name, tensor in received.items()})
        entry_models: Mapping[str, EntryModel] = (
            obfuscation.entry_models(sent) if isinstance(obfuscation, HasEntryModels) else {}
        )
        _, errors = first_guess(
            head,
            gradients,
            labels,
            gain=gain,
            tuning=self.factorisation,
            generator=generator,
            unknown=unknown_columns(gradients, [entry_models.get(name) for name in head.weights]),
        )
        refiner = FeatureRefiner(
            head=head,
            gradient=gradients[0],
            entry_model=entry_models.get(head.weights[0]),
            labels=labels,
            training=knowledge.training,
            gain=factor,
            once=gain / factor,
            estimated=levelled is not None,
            exact=levelled is None and obfuscation is not None and obfuscation.family == "none",
            tuning=self.factorisation,
        )
        refiner, separated = refiner.reread(separate(errors, gradients[0], ridge=self.factorisation.reread_ridge))
        if levelled is None:
            turns = separated
            separated = separate_trained(
                head,
                gradients[0],
                labels,
                turns,
                gain=gain,
                usual=float(decoder.examples.square().mean().sqrt()),
                entry_model=refiner.entry_model,
                misfit=refiner.misfit,
                tuning=self.closed_gates,
            )
            if separated is not turns:
                refiner = replace(refiner, errors=separated.errors / factor)
                tuning = self.closed_gates
                state = replace(state, floors=tuning.floors if refiner.exact else tuning.noisy_floors)
        alike = find_alike(separated, gradients[0], labels)
        if not torch.equal(alike, torch.arange(len(alike)).to(alike)):
            separated = separate_alike(
                separated.errors[alike], gradients[0], alike, ridge=self.factorisation.reread_ridge
            )
            refiner = replace(refiner, alike=alike, errors=separated.errors / factor)
        features = head.allowed(separated.features)
        lost = [number - 1 for number in refiner.lost]
        pictures = decoder(features, separated.noise)
        pictures[lost] = state.pictures[lost]
        state = replace(
            state,
            pictures=pictures,
            refiner=refiner,
            feature_sensitivity=sensitivity,
            losses=(*state.losses, separated.residual),
        )
        if levelled is not None:

            def scaled(gain: float) -> Images:
                return decoder(features * (factor / gain), separated.noise * (factor / gain) ** 2)

            state = first_estimate(problem, state, levelled, features, scaled)
        problem.report(len(state.losses) - 1)(1, separated.residual, lambda: state.pictures)
        return state
