"""About how much memory unveil's own attack needs, reckoned from the sizes of the network and of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from weakref import WeakKeyDictionary

from torch.nn import Module

from unveil.attacks.matching.memory import matching_bytes
from unveil.attacks.separation import decoder
from unveil.attacks.separation.gain.likelihood import is_known
from unveil.attacks.separation.heads.head import NoHeadError, read_head
from unveil.attacks.separation.weighted_lstsq import CHUNK, ENTRIES, MANY, READ
from unveil.core.obfuscation_memory import obfuscating_copies, update_bytes
from unveil.core.protocols import HasEntryModels, Knowledge

FLOAT, DOUBLE = 4, 8
SEARCH = 1.6  # activations of the batch and their slopes, at the peak of a backward pass, in units of the activations
COPIES = 14  # copies of the pictures in a search: the present ones, steps, slopes, Adam's means, the best so far
FEATURES = 6  # copies of the features of the batch
COVARIANCES = 2  # matrices for each feature: the covariance, from which the precision is made
BLOCKS = 8  # temporaries of the size of a block of columns or rows


def working_bytes(model: Module, knowledge: Knowledge, *, activations: int) -> int:
    """Return the bytes that the attack has at its peak, beside the model and the received update.

    The search and the separation follow each other, so the larger one counts, and what is held in both.

    Args:
        model: The public model.
        knowledge: What the attacker knows.
        activations: Bytes that autograd keeps for one pass of the whole batch through the model.
    """
    head = _head_of(model, knowledge)
    if head is None:
        return matching_bytes(model, knowledge, activations=activations)
    n, pictures = knowledge.num_images, FLOAT * prod(knowledge.image_shape)
    out, features = head.out, prod(head.feature_map)
    obfuscation = knowledge.obfuscation
    is_weighted = obfuscation is None or isinstance(obfuscation, HasEntryModels)
    held = COPIES * n * pictures + FEATURES * n * features * FLOAT
    if is_weighted and n <= MANY:
        held += COVARIANCES * features * n * n * FLOAT
    block = min(max(out * CHUNK, READ), out * features)
    separation = BLOCKS * block * FLOAT * is_weighted
    energy = 3 * DOUBLE * min(ENTRIES, out * features)
    decoding = _decoder_bytes(head.feature_map, knowledge.image_shape, activations // n)
    return held + max(int(SEARCH * activations), separation, energy, decoding, _simulated_bytes(model, knowledge))


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Sizes of a head: outputs of its first layer, and (channels, height, width) of the map in front of it."""

    out: int
    feature_map: tuple[int, int, int]


_HEADS: WeakKeyDictionary[Module, dict[tuple[object, ...], _Sizes | None]] = WeakKeyDictionary()
"""Sizes that were read of a network before, since all trials of an audit ask for them and a network is slow to read."""


def _head_of(model: Module, knowledge: Knowledge) -> _Sizes | None:
    """Return the sizes of the head of a network; None if the batch cannot be separated behind it."""
    known = _HEADS.setdefault(model, {})
    key = (knowledge.image_shape, knowledge.training.mode, knowledge.draws is None)
    if key not in known:
        try:
            head = read_head(model, knowledge.image_shape, training=knowledge.training, draws=knowledge.draws)
            known[key] = _Sizes(out=head.weight(0).shape[0], feature_map=head.feature_map)
        except NoHeadError:
            known[key] = None
    return known[key]


def _decoder_bytes(feature_map: tuple[int, int, int], image_shape: tuple[int, int, int], activations: int) -> int:
    """Return the bytes that fitting the decoder takes: dead leaves, their features, and the inputs of the regression.

    Args:
        feature_map: (channels, height, width) of the map in front of the head.
        image_shape: The same of a picture.
        activations: Bytes that autograd keeps for one picture.
    """
    channels, rows, columns = feature_map
    leaves = decoder.PICTURES * FLOAT * (prod(image_shape) + 3 * channels * rows * columns)
    inputs = (9 * channels if 9 * channels <= decoder.WIDEST else channels) + 1
    regression = FLOAT * min(decoder.SAMPLES, decoder.PICTURES * rows * columns) * inputs
    return leaves + max(regression, decoder.AT_ONCE * activations)


def _simulated_bytes(model: Module, knowledge: Knowledge) -> int:
    """Return the bytes of a simulated update and its obfuscation, which an unknown length of the update calls for."""
    if knowledge.obfuscation is None or is_known(knowledge):
        return 0
    return int((1 + obfuscating_copies(knowledge.obfuscation)) * update_bytes(model))
