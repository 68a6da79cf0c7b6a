"""A network whose calls are numbered, and a run of it on some pictures.

Where a result is varied, the convolutions before it are not computed again: their outputs are those of that run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.peeling.watch import Convolution, Gated, Map, convolutions_of, results_of, watched
from unveil.core.types import Images, Tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network and a run of it.

    Args:
        model: The network in the client's mode, in float64.
        images: Two pictures in float64 or more; not those of the batch.
        layers: The convolutions whose gradients were sent, first to last.
        outputs: Number of the call of each convolution -> its output for the pictures.
        scores: The network's output for them.
    """

    model: Module
    images: Images
    layers: list[Convolution]
    outputs: Mapping[int, Map]
    scores: Float[Tensor, "n classes"]

    @classmethod
    def of(cls, model: Module, images: Images, sent: Tensors) -> Network:
        """Run a network.

        Args:
            model: The network in the client's mode, in float64.
            images: Some pictures in float64.
            sent: The received gradient of each parameter.
        """
        layers = convolutions_of(model, images)
        with torch.no_grad():
            scores, outputs = watched(model, images, keep=tuple(layer.call for layer in layers))
        kept = [layer for layer in layers if layer.name in sent]
        return cls(model=model, images=images, layers=kept, outputs=outputs, scores=scores)

    def before(self, call: int) -> dict[int, Map]:
        """Return the outputs of the convolutions before a call."""
        return {number: made for number, made in self.outputs.items() if number < call}

    def results(
        self,
        calls: Sequence[int],
        *,
        replace: Mapping[int, Float[Tensor, " ..."]],
        count: int | None = None,
        model: Module | None = None,
        gated: Mapping[int, Gated] | None = None,
    ) -> dict[int, Float[Tensor, " ..."]]:
        """Return some results with others replaced; differentiable.

        Args:
            calls: Numbers of the calls whose results are returned.
            replace: Number of a call -> the result that it shall have, at least one.
            count: How often the first picture is taken; None for all pictures, each once.
            model: A network with the same calls that is run instead; None for the network itself.
            gated: Number of a call of an activation -> its known result and gates.
        """
        images, before = self.images, self.before(min(replace))
        if count is not None:
            images = images[:1].expand(count, *images.shape[1:])
            before = {call: made[:1].expand(count, *made.shape[1:]) for call, made in before.items()}
        return results_of(model or self.model, images, calls, replace={**before, **replace}, gated=gated)


def cut_at(network: Network, call: int) -> tuple[bool, bool]:
    """Return how a network depends on the result of one call.

    Args:
        network: The network.
        call: Number of the call.

    Returns:
        Whether the network's output depends on the pictures through this result alone, and whether the result is never
        negative, as behind ReLU.
    """
    model, images, before = network.model, network.images, network.before(call)
    with torch.no_grad():
        kept = results_of(model, images, (call,), replace=before)
        if call not in kept:
            return False, False
        # With this result of the other pictures the network must give their output.
        output, _ = watched(model, images, replace={**before, call: kept[call].flip(0)})
    expected = network.scores.flip(0)
    is_cut = output.shape == expected.shape and bool(torch.allclose(output, expected, rtol=1e-6, atol=1e-9))
    return is_cut, bool((kept[call] >= 0).all())
