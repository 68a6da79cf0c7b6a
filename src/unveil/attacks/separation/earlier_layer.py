"""The first stage for networks whose head cannot be used: it separates the batch at an earlier Linear layer.

The first Linear layer behind the flattened map holds the features of every image, whatever stands behind it: other
layers, random draws as in PRECODE's bottleneck, scores that depend on the picture in other ways. The errors are found
by their zeros alone (`sparse_errors`), so neither labels nor draws are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch.nn import Module

from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.decoder import fit_decoder
from unveil.attacks.separation.factorisation import separate
from unveil.attacks.separation.heads.head import NoHeadError
from unveil.attacks.separation.heads.linear_head import Head
from unveil.attacks.separation.heads.places import read_places
from unveil.attacks.separation.peeled import KnownMaps
from unveil.attacks.separation.scales import Behind, scales_of
from unveil.attacks.separation.sparse_errors import sparse_errors
from unveil.attacks.separation.stages import feature_sensitivity_of
from unveil.attacks.separation.state import Problem, State
from unveil.attacks.separation.tuning import SearchTuning
from unveil.core.network import in_mode, run
from unveil.core.protocols import EntryModel, HasEntryModels, loss_of
from unveil.core.tracing import Tape
from unveil.core.types import Images

MOST = 32  # images of a batch; with more, directions with enough zeros are no longer found by chance
RIDGE = 1e-9  # of the solve for features, since errors that were found by their zeros are as exact as the gradient


@dataclass(frozen=True, kw_only=True)
class SeparateEarlierLayer:
    """Separate the batch at the first Linear layer behind the flattened map, and decode the first pictures.

    Args:
        search: The constants of the search.
        steps: Steps of the attack that the stage counts as.
    """

    search: SearchTuning
    steps: int = 1

    def __call__(self, problem: Problem, state: State) -> State:
        """Return the state with the features and the decoded pictures; see `Stage`.

        Raises:
            NoHeadError: There is no such layer, or its gradient has no errors with enough zeros.
        """
        knowledge, generator, received = problem.knowledge, problem.generator, problem.update.tensors
        n, shape = knowledge.num_images, knowledge.image_shape
        client = in_mode(problem.model, knowledge.training.mode)
        pictures = dead_leaves(max(2, min(n, MOST)), shape, generator=generator).to(problem.labels.device)
        body, behind = _first_layer(problem, client, pictures)
        gradient = received[body.weights[0]].to(body.kind)
        if n > min(MOST, *gradient.shape) or not bool(gradient.any()):
            raise NoHeadError(f"Its first Linear layer ({body.weights[0]}) does not tell {n} images apart.")
        errors = sparse_errors(gradient, n, generator=generator).to(gradient)
        if len(errors) < n:
            raise NoHeadError(
                f"At its first Linear layer ({body.weights[0]}) the gates of {len(errors)} of {n} images were found."
            )
        found = separate(errors, gradient, ridge=RIDGE).features
        signs = found.sum(1, keepdim=True).sign()
        with torch.no_grad():
            usual = float(body.without_draws().features(pictures).norm(dim=1).mean())
        scales, source = scales_of(errors * signs, found * signs, behind, received, usual=usual)
        errors = errors * signs * scales[:, None]
        estimate = separate(errors, gradient, ridge=RIDGE)
        model = _entry_model(problem, body)
        if model is not None:
            estimate = separate(errors, gradient, guess=body.allowed(estimate.features), entry_model=model, ridge=RIDGE)
        estimate = replace(estimate, features=body.allowed(estimate.features))
        first = fit_decoder(body, generator=generator)(estimate.features, estimate.noise)
        note = (
            f"The batch was separated at the network's first Linear layer ({body.weights[0]}) by the closed gates of "
            f"its images, whatever stands behind them. {source} Which label belongs to which picture is not known."
        )
        state = replace(
            state,
            pictures=first,
            refiner=KnownMaps(body=body, estimate=estimate, notes=(note,)),
            feature_sensitivity=feature_sensitivity_of(body, first, tuning=self.search, generator=generator),
            losses=(*state.losses, estimate.residual),
        )
        problem.report(len(state.losses) - 1)(1, estimate.residual, lambda: state.pictures)
        return state


def _entry_model(problem: Problem, body: Head) -> EntryModel | None:
    """Return the entry model of the gradient at the cut; None if all entries are equally certain."""
    obfuscation = problem.knowledge.obfuscation
    tensors = {name: tensor.to(body.kind) for name, tensor in problem.update.tensors.items()}
    sent = replace(problem.update, tensors=tensors)
    models: Mapping[str, EntryModel] = obfuscation.entry_models(sent) if isinstance(obfuscation, HasEntryModels) else {}
    return models.get(body.weights[0])


def _first_layer(problem: Problem, client: Module, pictures: Images) -> tuple[Head, Behind]:
    """Return the network before its first Linear layer on a flattened map, and what stands behind that layer.

    Raises:
        NoHeadError: There is no such layer, or its weight is not sent or used elsewhere.
    """
    knowledge = problem.knowledge
    tape = Tape({id(parameter): name for name, parameter in client.named_parameters()})
    with torch.no_grad(), tape:
        run(client, pictures, {}, draws=None)
    names = [name for name, *_ in tape.linears]
    for number, (name, inputs, _) in enumerate(tape.linears):
        usable = name in problem.update.tensors and names.count(name) == 1 and name not in tape.elsewhere
        if name is None or not usable or inputs.dim() != 2 or len(inputs) != len(pictures):
            continue
        places, _ = read_places(client, client.get_parameter(name), pictures)
        if places is not None:
            head = Head(
                model=client,
                weights=(name,),
                image_shape=knowledge.image_shape,
                places=places,
                rectified=bool((inputs >= 0).all()) and bool((inputs == 0).any()),
                draws=knowledge.draws,
                loss=loss_of(knowledge.training),
            )
            following = names[number + 1] if number + 1 < len(names) else None
            return head, Behind(client=client, first=name, second=following, image_shape=knowledge.image_shape)
    raise NoHeadError("No earlier Linear layer takes the entries of a map.")
