"""What a statement on differential privacy rests on, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from unveil.core.guarantees import Adjacency, Unit
from unveil.privacy.mechanisms import Mechanism
from unveil.privacy.terms import PrivacyTerms

NEIGHBOURS: Mapping[Unit, Mapping[Adjacency, str]] = {
    "example": {
        "replace": "Neighbours differ in one example, a picture with its label, which is replaced by any other; how "
        "many examples there are may be known.",
        "zero-out": "Neighbours differ in one example, a picture with its label, whose gradient counts as zero; how "
        "many examples there are may be known.",
        "add-remove": "Neighbours differ in one example, a picture with its label, which is there or not.",
    },
    "client": {
        "replace": "Neighbours differ in everything that the client has, which is replaced by anything else; that the "
        "client takes part may be known.",
        "zero-out": "Neighbours differ in everything that the client has, for which an update of zeros stands; that "
        "the client takes part may be known.",
        "add-remove": "",
    },
}
"""What neighbouring inputs are, by unit and adjacency; whether a client is there can be seen."""

ALONE = "Nothing else that depends on the pictures leaves the client, such as losses, metrics or buffers."
IDEAL = (
    "The noise is true Gaussian noise on real numbers, fresh in every update: a generator that can be predicted, or "
    "the rounding of floating-point numbers, is not covered."
)


def assumptions(mechanism: Mechanism, terms: PrivacyTerms, adjacency: Adjacency, rate: float) -> list[str]:
    """Return what a guarantee rests on, a sentence each.

    Args:
        mechanism: What guarantees it.
        terms: The terms.
        adjacency: What neighbours differ in.
        rate: Probability with which an example is in a sample; 1 without amplification.
    """
    return [
        NEIGHBOURS[mechanism.unit][adjacency],
        _made(mechanism),
        _sampled(mechanism, terms, rate),
        f"The attacker sees {terms.rounds:,} update{'s' if terms.rounds != 1 else ''} of this client, and knows "
        "everything else: the network, the settings, and all other examples.",
        ALONE,
        IDEAL,
    ]


def _made(mechanism: Mechanism) -> str:
    """Return what is clipped, how much noise there is, and how often."""
    if mechanism.unit == "example":
        return (
            f"Each example's gradient is clipped to an L2 norm of {mechanism.clip:g}, and the sum over a step gets "
            f"noise of standard deviation {mechanism.noise:g} in every entry; an example is in {mechanism.releases:,} "
            f"such sum{'s' if mechanism.releases != 1 else ''} of an update at most."
        )
    return (
        f"The whole update is clipped to an L2 norm of {mechanism.clip:g}, and every entry gets noise of standard "
        f"deviation {mechanism.noise:g}{', the buffers likewise' if mechanism.releases > 1 else ''}."
    )


def _sampled(mechanism: Mechanism, terms: PrivacyTerms, rate: float) -> str:
    """Return which examples a round trains on, and what that is worth."""
    if mechanism.unit == "client":
        return "Who sends an update is seen, so that a choice among clients amplifies nothing."
    if terms.sampling == "poisson" and rate < 1:
        return (
            f"Each {terms.each} takes each of the client's {terms.dataset:,} examples with probability {rate:.3g}, "
            "independently of the others (Poisson sampling), and nobody outside sees which."
        )
    if terms.sampling == "poisson":
        return (
            "Rounds draw examples by Poisson sampling; under this adjacency and local training no amplification is "
            "granted for that, and an example counts as in every round."
        )
    if terms.sampling == "fixed-size":
        return (
            "A round takes a fixed number of the client's examples without replacement; no amplification is granted "
            "for that, and an example counts as in every round."
        )
    return "Every round trains on all of the client's examples: no amplification by sampling."
