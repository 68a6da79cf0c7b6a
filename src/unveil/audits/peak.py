"""About how much memory a trial has at its peak, reckoned from the sizes of the network, the update and the batch."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn import Module

from unveil.attacks.matching.memory import matching_bytes
from unveil.core.network import as_taken, fresh_buffers, in_mode, users_code
from unveil.core.obfuscation_memory import obfuscating_copies, update_bytes
from unveil.core.protocols import Attack, EstimatesMemory, Knowledge
from unveil.core.types import Images
from unveil.core.usercode import own_randomness

TRIED = 2  # pictures of which the activations are measured; a layer of BatchNorm may refuse a single one
TRAINING = 1.5  # activations of the batch and their slopes while a client trains, in units of the activations
SPARE = 4 << 20
MASK = 0.25  # size of the mask of the entries that were sent, in units of the update


def activation_bytes(model: Module, knowledge: Knowledge) -> int:
    """Return the bytes that autograd keeps for one pass of the whole batch through the model.

    Args:
        model: The model.
        knowledge: Gives the shape of the pictures, their number, and the mode of the model.

    Raises:
        UsageError: The model's code raised an error.
    """
    like = next(iter(model.parameters()))
    count = min(knowledge.num_images, TRIED)
    tried = torch.rand((count, *knowledge.image_shape), generator=torch.Generator().manual_seed(0)).to(like.device)
    return _kept_bytes(in_mode(model, knowledge.training.mode), tried) * knowledge.num_images // count


def _kept_bytes(model: Module, images: Images) -> int:
    kept: dict[int, int] = {}

    def note(tensor: Shaped[Tensor, ...]) -> Shaped[Tensor, ...]:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # Not `network.run`, which allows no hooks on saved tensors because a checkpointed layer would use them.
    with users_code("model: its forward"), own_randomness(0), saved_tensors_hooks(note, lambda tensor: tensor):
        output = functional_call(model, fresh_buffers(model), (as_taken(model, images),))
    for tensor in (*model.parameters(), *model.buffers()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    del output  # until here it holds what autograd keeps, so that no two tensors had the same place
    return sum(kept.values())


def peak_bytes(model: Module, knowledge: Knowledge, attack: Attack, *, activations: int, updates: int = 1) -> int:
    """Return about how many bytes a trial has at its peak, beside the program, the model and the pictures.

    The client trains, obfuscates its update and sends it; then it is attacked. The largest of these counts.

    Args:
        model: The model.
        knowledge: What the attacker knows.
        attack: The attack; one that does not estimate its memory is taken to differentiate through the gradient.
        activations: See `activation_bytes`.
        updates: Number of updates that are sent, in several rounds or by several clients.
    """
    update = update_bytes(model)
    copies = obfuscating_copies(knowledge.obfuscation)
    training = updates * update + int(TRAINING * activations)
    sending = int((updates + copies) * update)
    estimate = attack.working_bytes if isinstance(attack, EstimatesMemory) else matching_bytes
    received = int((updates + (MASK if copies else 0)) * update)
    return SPARE + max(training, sending, received + estimate(model, knowledge, activations=activations))
