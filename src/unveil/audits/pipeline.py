"""The straight line: a client trains and sends, an obfuscation acts, an attack rebuilds, an enhancer may follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Generator
from torch.nn import Module

from unveil.audits.all_rounds import of_all_rounds, refuse_rounds
from unveil.audits.each_client import of_each_client, refuse_each
from unveil.audits.profiling import Profiler
from unveil.audits.threat_model import ThreatModel
from unveil.audits.withheld import without_withheld
from unveil.clients.client import Client
from unveil.clients.local_steps import draws_of
from unveil.core.arithmetic import chosen_precision
from unveil.core.protocols import Attack, Enhancer, Knowledge, Obfuscation
from unveil.core.randomness import generators
from unveil.core.reconstruction import Reconstruction
from unveil.core.records import Enhancement
from unveil.core.update import Update
from unveil.core.usercode import running_others
from unveil.core.watch import Watch
from unveil.enhancers.consistency import enhance
from unveil.inspection.unknown_obfuscation import fingerprinted

EVERYTHING = ThreatModel()
"""The attacker who knows everything that can be granted, except the random draws of the client's network."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that came of one update. Pictures are in the attack's order and not yet rounded to 8 bits.

    Args:
        received: What the server received, without parameters of which the client sends nothing; with the messages of
            which it is the mean, which the attack did not get.
        knowledge: What the attacker was granted.
        attack: What the attack rebuilt.
        enhanced: The enhancer's pictures; None without an enhancer.
        enhancement: What the enhancer did; None without one.
        raw_bits: Size of the update with every entry written in full, in bits.
        seconds: Wall time of the attack, in seconds.
        enhancing_seconds: Wall time of the enhancer, in seconds; 0 without one.
        peak_mib: Peak memory of the process during attack and enhancer, in MiB; None where it cannot be measured.
    """

    received: Update
    knowledge: Knowledge
    attack: Reconstruction
    enhanced: Reconstruction | None
    enhancement: Enhancement | None
    raw_bits: int
    seconds: float
    enhancing_seconds: float
    peak_mib: float | None

    @property
    def final(self) -> Reconstruction:
        """The last pictures: the enhanced ones where there is an enhancer."""
        return self.attack if self.enhanced is None else self.enhanced


def play(
    client: Client,
    obfuscation: Obfuscation,
    attack: Attack,
    *,
    threat_model: ThreatModel = EVERYTHING,
    seed: int = 0,
    enhancer: Enhancer | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Play one update from the client's batch to the attacker's pictures.

    Nothing is written, and the global random states stay as they are.

    Args:
        client: The client.
        obfuscation: What changes the update on its way to the server.
        attack: The attack; it gets the model, the received update and the knowledge, never the batch.
        threat_model: Which facts the attacker is granted. An obfuscation that is withheld is taken from the
            update; see `fingerprinted`.
        seed: A whole number of at least 0. The client's noise, the obfuscation and the attack each have a generator
            derived from it.
        enhancer: The network that changes the attack's pictures afterwards; None for none.
        watch: Called after each step of the attack; its time does not count as the attack's.

    Raises:
        UsageError: The update is all zeros or not finite, or a component cannot work with this client.
    """
    for_client, _, for_attack = generators(seed)
    refuse_rounds(client, obfuscation)
    refuse_each(client, obfuscation)
    with running_others(training=client.training, obfuscation=obfuscation):
        received = client.update(obfuscation, seed=seed)
    granted = threat_model.knowledge(client, obfuscation, draws=draws_of(for_client))
    granted = of_all_rounds(received, granted, client)
    arrived, granted = without_withheld(received, granted, obfuscation)
    arrived, granted = of_each_client(received, arrived, granted, client, obfuscation)
    arrived, knowledge = fingerprinted(arrived, granted)
    outcome = attacked(
        client.model,
        arrived,
        knowledge,
        attack,
        generator=for_attack,
        enhancer=enhancer,
        class_names=client.class_names,
        watch=watch,
    )
    # The size in full is that of an update of every layer, which the baseline sends. Messages count; none was attacked.
    seen = replace(outcome.received, messages=received.messages)
    return replace(outcome, received=seen, raw_bits=received.in_full.wire_bits)


def attacked(
    model: Module,
    received: Update,
    knowledge: Knowledge,
    attack: Attack,
    *,
    generator: Generator,
    enhancer: Enhancer | None = None,
    class_names: Sequence[str] = (),
    watch: Watch | None = None,
) -> Outcome:
    """Attack an update that the server received: one that `play` made, or a recorded one.

    Args:
        model: The public model.
        received: The update.
        knowledge: What the attacker knows.
        attack: The attack.
        generator: Randomness of the attack.
        enhancer: The network that changes the attack's pictures afterwards; None for none.
        class_names: Name of each class, for the enhancer; empty if they are not known.
        watch: Called after each step of the attack; its time does not count as the attack's.

    Raises:
        UsageError: A component cannot work with this model or update.
    """
    device = next(model.parameters()).device
    with chosen_precision(device):
        with running_others(attack=attack, obfuscation=knowledge.obfuscation), Profiler(device) as attacking:
            guess = attack(model, received, knowledge, generator=generator, watch=attacking.unmetered(watch))
        enhanced, enhancement = None, None
        with running_others(enhancer=enhancer), Profiler(device) as enhancing:
            if enhancer is not None:
                enhanced, enhancement = enhance(
                    enhancer,
                    guess,
                    model=model,
                    update=received,
                    knowledge=knowledge,
                    class_names=class_names,
                )
    peaks = [profile.peak_mib for profile in (attacking, enhancing) if profile.peak_mib is not None]
    return Outcome(
        received=received,
        knowledge=knowledge,
        attack=guess,
        enhanced=enhanced,
        enhancement=enhancement,
        raw_bits=received.in_full.wire_bits,
        seconds=attacking.seconds,
        enhancing_seconds=0.0 if enhancer is None else enhancing.seconds,
        peak_mib=max(peaks, default=None),
    )
