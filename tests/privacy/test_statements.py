"""What is stated of a local training and an obfuscation, and why nothing is where nothing holds."""

from __future__ import annotations

import math

import pytest
from torch import Generator

from unveil import obfuscations
from unveil.clients import training
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.core.guarantees import PrivacyStatement
from unveil.core.protocols import Misfit
from unveil.core.update import Update
from unveil.obfuscations.pipeline import Pipeline
from unveil.privacy import mechanisms, statements
from unveil.privacy.gaussian import epsilon_of
from unveil.privacy.statements import privacy_statements
from unveil.privacy.terms import PrivacyTerms

N = 16


def stated(local: str, obfuscation: str = "none", terms: PrivacyTerms | None = None) -> list[PrivacyStatement]:
    return privacy_statements(training.parse(local), obfuscations.parse(obfuscation), N, terms)


def only(local: str, obfuscation: str = "none", terms: PrivacyTerms | None = None) -> PrivacyStatement:
    (statement,) = stated(local, obfuscation, terms)
    return statement


@pytest.mark.parametrize(
    "obfuscation", ["none", "topk:density=0.05", "qsgd:levels=4", "fp16", "sign", "powersgd:rank=1"]
)
def test_where_there_is_neither_noise_nor_clipping_nothing_is_stated_unless_asked(obfuscation: str) -> None:
    assert stated("fedsgd", obfuscation) == []
    assert stated("fedavg:steps=3,lr=0.1", obfuscation) == []
    asked = only("fedsgd", obfuscation, PrivacyTerms())
    assert (asked.epsilon, asked.reason, asked.strength) == (None, mechanisms.NOTHING, None)


@pytest.mark.parametrize(
    ("local", "adjacency", "mu"),
    [
        # Replacing one of n clipped gradients moves their sum by 2 C, and the noise on it is 3 C.
        ("fedsgd:clip=0.5,noise=3", None, 2 / 3),
        ("fedsgd:clip=0.5,noise=3", "replace", 2 / 3),
        ("fedsgd:clip=0.5,noise=3", "zero-out", 1 / 3),
        ("fedsgd:clip=0.5,noise=3,expected=16", None, 1 / 3),
        ("fedsgd:clip=0.5,noise=3,expected=16", "add-remove", 1 / 3),
        ("fedsgd:clip=0.5,noise=3,expected=16", "replace", 2 / 3),
        ("fedsgd:clip=0.5,noise=3,reduction=sum", None, 1 / 3),
        # Five steps on the whole batch; ten epochs in mini-batches have each example ten times; so have 38 steps of 4.
        ("fedavg:steps=5,lr=0.1,clip=2,noise=3", None, 2 / 3 * math.sqrt(5)),
        ("fedavg:epochs=10,batch_size=4,lr=0.1,clip=2,noise=3", None, 2 / 3 * math.sqrt(10)),
        ("fedavg:steps=38,batch_size=4,lr=0.1,clip=2,noise=3", None, 2 / 3 * math.sqrt(10)),
        ("fedavg:steps=30,batch_size=5,drop_last=true,lr=0.1,clip=2,noise=3", None, 2 / 3 * math.sqrt(10)),
        ("fedavg:steps=5,lr=0.1,momentum=0.9,weight_decay=0.1,clip=2,noise=3", "zero-out", 1 / 3 * math.sqrt(5)),
    ],
)
def test_per_example_clipping_protects_an_example(local: str, adjacency: str | None, mu: float) -> None:
    found = only(local, "none", PrivacyTerms(adjacency=adjacency, delta=1e-6))  # type: ignore[arg-type]
    assert found.unit == "example"
    assert found.epsilon == pytest.approx(epsilon_of(1e-6, mu), rel=1e-9)
    assert found.accountant == "closed form (Gaussian mechanism)"
    rounds = only(local, "none", PrivacyTerms(adjacency=adjacency, delta=1e-6, rounds=9))  # type: ignore[arg-type]
    assert rounds.epsilon == pytest.approx(epsilon_of(1e-6, 3 * mu), rel=1e-9)
    assert rounds.strength == found.strength  # one update, whatever comes after it


@pytest.mark.parametrize(
    ("obfuscation", "clip", "noise"),
    [
        ("dpsgd:clip=0.5,noise=3", 0.5, 1.5),
        ("clip:norm=0.5+gaussian:sigma=1.5", 0.5, 1.5),
        ("randomk:density=0.1+dpsgd:clip=0.5,noise=3", 0.5, 1.5),
        ("powersgd:rank=2+dpsgd:clip=0.5,noise=3", 0.5, 1.5),
        ("qsgd:levels=4+clip:norm=0.5+gaussian:sigma=1.5+topk:density=0.1+fp16", 0.5, 1.5),
        ("gaussian:relative=1+clip:norm=0.5+gaussian:sigma=1.5", 0.5, 1.5),
        ("dpsgd:clip=1,noise=0.01+dpsgd:clip=0.5,noise=3", 0.5, 1.5),
        ("dpsgd:clip=0.5,noise=3+dpsgd:clip=1,noise=0.01", 0.5, 1.5),
    ],
)
def test_clipping_of_the_whole_update_protects_a_client(obfuscation: str, clip: float, noise: float) -> None:
    found = only("fedavg:steps=5,lr=0.1", obfuscation)
    assert (found.unit, found.adjacency, found.clip, found.sensitivity) == ("client", "replace", clip, 2 * clip)
    assert found.noise == pytest.approx(noise)
    assert found.epsilon == pytest.approx(epsilon_of(1e-5, 2 * clip / noise), rel=1e-9)
    assert found.strength == pytest.approx(clip / noise)
    less = only("fedavg:steps=5,lr=0.1", obfuscation, PrivacyTerms(adjacency="zero-out"))
    assert less.epsilon == pytest.approx(epsilon_of(1e-5, clip / noise), rel=1e-9)


def test_noise_behind_the_mean_of_clipped_gradients_is_noise_on_their_sum() -> None:
    # Clipped to 0.5, 16 examples: noise of 0.1 on the mean is 1.6 on the sum; with DP-SGD's own noise the variances
    # add.
    found = only("fedsgd:clip=0.5", "gaussian:sigma=0.1", PrivacyTerms(adjacency="zero-out"))
    assert found.epsilon == pytest.approx(epsilon_of(1e-5, 0.5 / 1.6), rel=1e-9)
    summed = only("fedsgd:clip=0.5,reduction=sum", "gaussian:sigma=1.6")
    assert summed.epsilon == pytest.approx(found.epsilon, rel=1e-9)
    both = only("fedsgd:clip=0.5,noise=2,expected=10", "gaussian:sigma=0.1")
    assert both.epsilon == pytest.approx(epsilon_of(1e-5, 0.5 / math.sqrt(2)), rel=1e-9)
    assert [s.reason for s in stated("fedavg:steps=2,lr=1,clip=0.5", "gaussian:sigma=0.1")] == [mechanisms.UNBOUNDED]


def test_both_units_are_stated_where_both_are_protected() -> None:
    example, client = stated("fedsgd:clip=1,noise=1", "dpsgd:clip=1,noise=1")
    assert (example.unit, client.unit) == ("example", "client")
    assert example.claimed is None
    claiming = stated("fedsgd:clip=1,noise=1", "dpsgd:clip=1,noise=1", PrivacyTerms(claimed_epsilon=10))
    assert [s.claimed for s in claiming] == [None, 10]
    assert only("fedsgd:clip=1", "dpsgd:clip=1,noise=1").unit == "client"  # which is not weakened by noiseless clipping


@pytest.mark.parametrize(
    ("local", "obfuscation", "reason"),
    [
        ("fedsgd", "gaussian:sigma=1", mechanisms.UNBOUNDED),
        ("fedsgd", "gaussian:relative=2.5", mechanisms.UNBOUNDED),
        ("fedsgd", "laplace:sigma=1", mechanisms.UNBOUNDED),
        ("fedsgd", "gaussian:sigma=1+clip:norm=1", mechanisms.UNBOUNDED),
        ("fedsgd", "svt:fraction=0.1", mechanisms.ENTRIES),
        ("fedsgd", "clamp:limit=0.1+gaussian:sigma=1", mechanisms.ENTRIES),
        ("fedsgd", "gaussian:sigma=1+clamp:limit=0.1", mechanisms.UNBOUNDED),
        ("fedsgd", "clip:norm=1", mechanisms.BARE),
        ("fedsgd:clip=1", "none", mechanisms.BARE),
        ("fedsgd:clip=1", "topk:density=0.1", mechanisms.BARE),
        ("fedsgd", "clip:norm=1+gaussian:relative=1", mechanisms.RELATIVE),
        ("fedsgd", "clip:norm=1+laplace:sigma=1", mechanisms.LAPLACE),
        ("fedsgd", "clip:norm=1+qsgd:levels=4+gaussian:sigma=1", mechanisms.BETWEEN),
        ("fedsgd", "topk:density=0.1+dpsgd:clip=1,noise=1", mechanisms.CHOSEN),
        ("fedsgd", "percentile:percent=95+dpsgd:clip=1,noise=1", mechanisms.CHOSEN),
        ("fedsgd", "soteria:pruning_rate=0.5+dpsgd:clip=1,noise=1", mechanisms.CHOSEN),
        ("fedsgd", "dpsgd:clip=1,noise=1+soteria:pruning_rate=0.5", mechanisms.AGAIN),
        ("fedsgd:clip=1,noise=1", "soteria:pruning_rate=0.5", mechanisms.AGAIN),
        ("fedsgd:mode=train,buffers=sent", "dpsgd:clip=1,noise=1", mechanisms.BUFFERS),
        ("fedsgd:mode=train,clip=1,noise=1,buffers=sent", "none", mechanisms.BUFFERS),
        ("fedsgd:mode=train,clip=1,noise=1,buffers=obfuscated", "none", mechanisms.BUFFERS),
    ],
)
def test_no_guarantee_has_its_reason(local: str, obfuscation: str, reason: str) -> None:
    found = only(local, obfuscation)
    assert (found.reason, found.epsilon, found.strength, found.accountant) == (reason, None, None, "")
    assert found.assumptions == []


def test_a_stage_of_which_nothing_is_known_may_choose_entries() -> None:
    class Mute:
        """Somebody else's stage, without any role."""

        family = "other"

        def __call__(self, update: Update, *, generator: Generator) -> Update:
            return update

        def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
            raise NotImplementedError

    noise = obfuscations.parse("dpsgd:clip=1,noise=1")
    (found,) = privacy_statements(FedSGD(), Pipeline((Mute(), noise)), N)
    assert found.reason == mechanisms.UNKNOWN
    (behind,) = privacy_statements(FedSGD(), Pipeline((noise, Mute())), N)
    assert behind.epsilon is not None  # it sees nothing but the noisy update


def test_obfuscated_buffers_are_a_second_release() -> None:
    found = only("fedsgd:mode=train,buffers=obfuscated", "dpsgd:clip=1,noise=4", PrivacyTerms(adjacency="zero-out"))
    assert found.epsilon == pytest.approx(epsilon_of(1e-5, math.sqrt(2) / 4), rel=1e-9)
    assert found.strength == pytest.approx(math.sqrt(2) / 4)


@pytest.mark.parametrize(
    ("local", "obfuscation", "sampling", "reason"),
    [
        ("fedsgd", "dpsgd:clip=1,noise=1", "all", statements.SEEN),
        ("fedsgd:clip=1,noise=1", "none", "all", statements.DIVIDED),
        ("fedavg:epochs=1,batch_size=4,lr=1,clip=1,noise=1,expected=4", "none", "all", statements.SHIFTED),
        ("fedsgd:clip=1,noise=1,expected=16", "none", "fixed-size", statements.REFILLED),
    ],
)
def test_adding_a_unit_is_refused_where_more_than_its_own_term_changes(
    local: str, obfuscation: str, sampling: str, reason: str
) -> None:
    found = only(local, obfuscation, PrivacyTerms(adjacency="add-remove", sampling=sampling))  # type: ignore[arg-type]
    assert (found.epsilon, found.reason) == (None, reason)
    assert found.strength == pytest.approx(1.0)  # what an attack on this update can do is bounded all the same


def test_a_sample_of_fixed_size_is_not_amplified() -> None:
    found = only(
        "fedsgd:clip=1,noise=2,expected=16", "none", PrivacyTerms(sampling="fixed-size", dataset=50_000, rounds=4)
    )
    assert (found.adjacency, found.rate) == ("replace", 1.0)
    assert found.epsilon == pytest.approx(epsilon_of(1e-5, 2.0), rel=1e-9)
    assert any("no amplification is granted" in sentence for sentence in found.assumptions)


class TestPoisson:
    @pytest.fixture(autouse=True)
    def needs_opacus(self) -> None:
        pytest.importorskip("opacus", reason="the extra unveil[dp] is not installed")

    @pytest.mark.slow
    def test_dp_sgd_of_the_whole_training(self) -> None:
        terms = PrivacyTerms(sampling="poisson", dataset=1600, rounds=1000)
        found = only("fedsgd:clip=0.3,noise=1,expected=16", "none", terms)
        assert (found.adjacency, found.rate) == ("add-remove", 0.01)
        assert found.epsilon == pytest.approx(1.838, abs=0.001)
        assert found.accountant.startswith("PRV accountant of Opacus")
        assert found.strength == pytest.approx(1.0)  # a picture that is in this update is not hidden by the sampling
        steps = PrivacyTerms(sampling="poisson", dataset=1600, rounds=100, each="step")
        local = "fedavg:steps=10,lr=0.1,clip=0.3,noise=1,expected=16"
        assert only(local, "none", steps).epsilon == found.epsilon

    @pytest.mark.slow
    def test_steps_on_one_sample_are_one_release_of_less_noise(self) -> None:
        terms = PrivacyTerms(sampling="poisson", dataset=1600, rounds=1000)
        one = only("fedsgd:clip=1,noise=1,expected=16", "none", terms)
        four = only("fedavg:steps=4,lr=0.1,clip=1,noise=2,expected=16", "none", terms)
        assert four.epsilon == pytest.approx(one.epsilon)

    def test_next_to_no_noise_says_that_nothing_was_amplified(self) -> None:
        terms = PrivacyTerms(sampling="poisson", dataset=1600)
        found = only("fedsgd:clip=1,noise=0.01,expected=16", "none", terms)
        assert found.accountant == "closed form (Gaussian mechanism), without amplification"
        assert found.epsilon == pytest.approx(epsilon_of(1e-5, 100.0))

    @pytest.mark.parametrize(
        ("local", "adjacency"),
        [("fedsgd:clip=1,noise=2", "replace"), ("fedsgd:clip=1,noise=2,expected=16", "replace")],
    )
    def test_what_the_accountant_does_not_cover_is_not_amplified(self, local: str, adjacency: str) -> None:
        terms = PrivacyTerms(sampling="poisson", dataset=1600, adjacency="replace")
        found = only(local, "none", terms)
        assert (found.adjacency, found.rate) == (adjacency, 1.0)
        assert found.epsilon == pytest.approx(epsilon_of(1e-5, 1.0), rel=1e-9)
        assert any("no amplification is granted" in sentence for sentence in found.assumptions)

    def test_more_expected_than_there_are_is_one_sentence(self) -> None:
        with pytest.raises(
            UsageError, match="an expected batch of 16 is larger than the data set of 10; correct dataset"
        ):
            only("fedsgd:clip=1,noise=1,expected=16", "none", PrivacyTerms(sampling="poisson", dataset=10))

    def test_poisson_sampling_without_the_size_of_the_data_set_is_one_sentence(self) -> None:
        with pytest.raises(UsageError, match="needs the number of examples that the client holds; give dataset"):
            PrivacyTerms(sampling="poisson")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("delta", 0.0, "expected 0 < delta < 1, got 0"),
        ("rounds", 0, "expected rounds >= 1, got 0"),
        ("rounds", 10**7, "expected rounds <= 1000000"),
        ("dataset", 0, "expected dataset >= 1"),
        ("claimed_epsilon", 0.0, "expected claimed_epsilon > 0"),
    ],
)
def test_terms_out_of_range_are_one_sentence(field: str, value: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PrivacyTerms(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("local", "obfuscation", "terms", "words"),
    [
        (
            "fedsgd:clip=1,noise=2",
            "none",
            PrivacyTerms(rounds=3),
            ["replaced by any other", "clipped to an L2 norm of 1", "3 updates"],
        ),
        ("fedsgd:clip=1,noise=2,expected=8", "none", PrivacyTerms(), ["there or not", "no amplification by sampling"]),
        (
            "fedavg:steps=3,lr=1,clip=1,noise=2",
            "none",
            PrivacyTerms(adjacency="zero-out"),
            ["counts as zero", "3 such sums"],
        ),
        (
            "fedsgd",
            "dpsgd:clip=1,noise=2",
            PrivacyTerms(),
            ["everything that the client has", "Who sends an update is seen"],
        ),
        ("fedsgd:buffers=obfuscated", "dpsgd:clip=1,noise=2", None, ["the buffers likewise"]),
    ],
)
def test_a_guarantee_says_what_it_rests_on(
    local: str, obfuscation: str, terms: PrivacyTerms | None, words: list[str]
) -> None:
    said = " ".join(only(local, obfuscation, terms).assumptions)
    for word in (*words, "Nothing else that depends on the pictures leaves the client", "true Gaussian noise"):
        assert word in said
