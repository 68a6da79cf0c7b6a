"""Differential privacy of an update, stated with its unit, adjacency, sampling, rounds and accountant."""

from __future__ import annotations

from dataclasses import replace

from unveil.core.errors import UsageError
from unveil.core.guarantees import Adjacency, PrivacyStatement
from unveil.core.protocols import LocalTraining, Obfuscation
from unveil.privacy.gaussian import composed, epsilon_of
from unveil.privacy.mechanisms import NOTHING, Mechanism, bounded, mechanisms
from unveil.privacy.poisson import accountant, is_amplified, poisson_epsilon
from unveil.privacy.terms import PrivacyTerms
from unveil.privacy.wording import assumptions

CLOSED_FORM = "closed form (Gaussian mechanism)"

SEEN = "Whoever receives an update sees that its client took part: take the adjacency replace or zero-out."
DIVIDED = (
    "The sum is divided by the number of examples, which tells whether one was added or removed: give local training "
    "expected=, or take the adjacency replace or zero-out."
)
SHIFTED = "One example more shifts the mini-batches of the others: take the adjacency replace or zero-out."
REFILLED = "In a sample of fixed size another example takes the place of a removed one: take the adjacency replace."


def privacy_statements(
    training: LocalTraining,
    obfuscation: Obfuscation,
    pictures: int,
    terms: PrivacyTerms | None = None,
    *,
    update_clip: float | None = None,
) -> list[PrivacyStatement]:
    """Return what holds for one example and for one client.

    Args:
        training: The local training.
        obfuscation: The obfuscation.
        pictures: Number of pictures in the update.
        terms: On which terms; None for the usual ones, and then nothing is stated where no noise is added and nothing
            is clipped.
        update_clip: Largest norm of everything together that the client sends, where that is not the obfuscation's.

    Raises:
        UsageError: The expected batch size is larger than the client's data set, or an accountant cannot be used.
    """
    found = mechanisms(training, obfuscation, pictures)
    if update_clip is not None:
        found = [bounded(mechanism, update_clip) for mechanism in found]
    if not found and terms is not None:
        found = [Mechanism(unit="client", reason=NOTHING)]
    terms = terms or PrivacyTerms()
    stated = [_statement(mechanism, training, terms) for mechanism in found]
    if not stated or stated[-1].reason == NOTHING:
        return stated
    # A claim is about the widest unit that is stated.
    return [*stated[:-1], *(replace(last, claimed=terms.claimed_epsilon) for last in stated[-1:])]


def _rate(mechanism: Mechanism, training: LocalTraining, terms: PrivacyTerms, adjacency: Adjacency) -> float:
    """Return the probability with which an example is in a sample; 1 where no amplification by sampling is granted.

    A replaced example is accounted for without it, and so is one in a sum whose divisor tells how many were drawn.
    """
    expected = getattr(training, "expected", None)
    if mechanism.unit == "client" or terms.sampling != "poisson" or not terms.dataset or expected is None:
        return 1.0
    if expected > terms.dataset:
        raise UsageError(
            f"privacy: an expected batch of {expected:g} is larger than the data set of {terms.dataset:,}; correct "
            "dataset"
        )
    return 1.0 if adjacency == "replace" or mechanism.mini_batches else float(expected / terms.dataset)


def _statement(mechanism: Mechanism, training: LocalTraining, terms: PrivacyTerms) -> PrivacyStatement:
    adjacency = terms.adjacency or _fitting(mechanism, terms)
    rate = _rate(mechanism, training, terms, adjacency)
    statement = PrivacyStatement(
        unit=mechanism.unit,
        adjacency=adjacency,
        sampling=terms.sampling,
        rounds=terms.rounds,
        releases=mechanism.releases,
        delta=terms.delta,
        clip=mechanism.clip,
        noise=mechanism.noise,
        rate=rate,
    )
    if mechanism.reason or mechanism.clip is None:
        return replace(statement, reason=mechanism.reason)
    # A picture's own share against none at all: so far an attack's view of one update can depend on the picture.
    strength = composed(mechanism.clip / mechanism.noise, mechanism.releases)
    refused = _refused(mechanism, terms, adjacency)
    if refused:
        return replace(statement, reason=refused, strength=strength)
    sensitivity = 2 * mechanism.clip if adjacency == "replace" else mechanism.clip
    epsilon, how = _epsilon(mechanism, terms, sensitivity, rate)
    return replace(
        statement,
        epsilon=epsilon,
        sensitivity=sensitivity,
        accountant=how,
        strength=strength,
        assumptions=assumptions(mechanism, terms, adjacency, rate),
    )


def _epsilon(mechanism: Mechanism, terms: PrivacyTerms, sensitivity: float, rate: float) -> tuple[float, str]:
    """Return epsilon over all rounds, and how it was computed."""
    if rate == 1:
        mu = composed(sensitivity / mechanism.noise, mechanism.releases * terms.rounds)
        return epsilon_of(terms.delta, mu), CLOSED_FORM
    multiplier, releases = mechanism.noise / sensitivity, terms.rounds
    if terms.each == "step":
        releases *= mechanism.releases
    else:  # the steps on one sample are together one release of less noise
        multiplier = 1 / composed(1 / multiplier, mechanism.releases)
    epsilon = poisson_epsilon(terms.delta, multiplier=multiplier, rate=rate, releases=releases)
    return epsilon, accountant() if is_amplified(multiplier) else f"{CLOSED_FORM}, without amplification"


def _fitting(mechanism: Mechanism, terms: PrivacyTerms) -> Adjacency:
    """Return the adjacency under which most can be stated."""
    whole_sample = terms.sampling != "fixed-size" and not mechanism.mini_batches
    return "add-remove" if mechanism.unit == "example" and mechanism.is_fixed and whole_sample else "replace"


def _refused(mechanism: Mechanism, terms: PrivacyTerms, adjacency: Adjacency) -> str:
    """Return why nothing can be stated under this adjacency; empty if something can."""
    if adjacency != "add-remove":
        return ""
    if mechanism.unit == "client":
        return SEEN
    if not mechanism.is_fixed:
        return DIVIDED
    if mechanism.mini_batches:
        return SHIFTED
    return REFILLED if terms.sampling == "fixed-size" else ""
