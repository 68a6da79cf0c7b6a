import dataclasses
from pathlib import Path

import pytest

from fakes import Counting, Named
from unveil.attacks import parse as parse_attack
from unveil.audits.audit import Audit
from unveil.audits.progress import AuditProgress
from unveil.audits.results import read_trials
from unveil.audits.running import run
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.circumstances import changed, differing
from unveil.core.errors import UsageError
from unveil.core.protocols import Attack, Obfuscation
from unveil.obfuscations import parse as parse_obfuscation


@pytest.fixture(scope="module")
def client() -> Client:
    return make_client(name="client", model="lenet", images="builtin", size=16, batch=2, training=FedSGD())


def parsed(*specs: str) -> list[Obfuscation]:
    return [parse_obfuscation(spec) for spec in specs]


def an_audit(client: Client, attack: Attack, *, seeds: tuple[int, ...] = (0, 1)) -> Audit:
    return Audit(clients=[client], obfuscations=parsed("none", "sign"), attacks=[attack], seeds=seeds)


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ([], ["none"]),
        (["sign", "fp16"], ["none", "sign", "fp16"]),
        (["sign", "none"], ["sign", "none"]),
    ],
)
def test_the_control_is_always_there(client: Client, given: list[str], run: list[str]) -> None:
    audit = Audit(clients=[client], obfuscations=parsed(*given), attacks=[Named()])
    assert [str(obfuscation) for obfuscation in audit.obfuscations] == run


def test_trials_are_the_product(client: Client) -> None:
    audit = Audit(
        clients=[client, dataclasses.replace(client, name="other")],
        obfuscations=parsed("none", "sign"),
        attacks=[Named(), Named(tag="b")],
        seeds=[0, 1, 2],
    )
    trials = [(s.name, str(o), str(a), seed) for s, _, o, a, seed in audit.trials()]
    assert len(trials) == len(set(trials)) == len(audit) == 24
    assert trials[0] == ("client", "none", "named", 0)
    assert trials[-1] == ("other", "sign", "named:tag=b", 2)


def test_what_would_be_counted_twice_or_not_at_all_is_refused(client: Client) -> None:
    audit = an_audit(client, Named())
    with pytest.raises(UsageError, match="client is given twice in clients"):
        dataclasses.replace(audit, clients=[client, client])
    with pytest.raises(UsageError, match="sign is given twice in obfuscations"):
        dataclasses.replace(audit, obfuscations=parsed("sign", "sign"))
    with pytest.raises(UsageError, match="0 is given twice in seeds"):
        dataclasses.replace(audit, seeds=[0, 0])
    with pytest.raises(UsageError, match="at least one of attacks"):
        dataclasses.replace(audit, attacks=[])
    with pytest.raises(UsageError, match="seeds of at least 0, got -1"):
        dataclasses.replace(audit, seeds=[-1])


def test_settings_change_with_the_weights_and_the_pictures(client: Client) -> None:
    def changed(other: Client) -> set[str]:
        (before,), (now,) = (an_audit(s, Named()).settings()["clients"] for s in (client, other))
        return {key for key in before if before[key] != now[key]}

    again = make_client(name="client", model="lenet", images="builtin", size=16, batch=2, training=FedSGD())
    weights = make_client(name="client", model="lenet", images="builtin", size=16, batch=2, training=FedSGD(), seed=1)
    pictures = dataclasses.replace(client, images=client.images.flip(0))
    assert changed(again) == set()
    assert changed(weights) == {"weights"}
    assert changed(pictures) == {"pictures"}


def test_run_returns_and_keeps_every_trial_in_order(client: Client, tmp_path: Path) -> None:
    trials = run(an_audit(client, Named()), tmp_path)
    assert [(trial.settings["obfuscation"], trial.seed) for trial in trials] == [
        ("none", 0),
        ("none", 1),
        ("sign", 0),
        ("sign", 1),
    ]
    assert read_trials(tmp_path) == trials


def test_run_goes_on_where_it_was_interrupted(client: Client, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(an_audit(client, Counting(limit=1)), tmp_path)
    (first,) = read_trials(tmp_path)

    second = Counting()
    trials = run(an_audit(client, second), tmp_path)
    assert len(second.calls) == 3
    assert trials[0] == first

    third = Counting()
    assert run(an_audit(client, third), tmp_path) == trials
    assert third.calls == []


def test_more_seeds_and_fewer_obfuscations_use_what_is_there(client: Client, tmp_path: Path) -> None:
    before = run(an_audit(client, Counting(), seeds=(0,)), tmp_path)
    more = Counting()
    extended = run(an_audit(client, more, seeds=(0, 1)), tmp_path)
    assert len(more.calls) == 2  # seed 1 of both obfuscations
    assert extended[0] == before[0]

    fewer, seen = Counting(), []
    audit = Audit(clients=[client], obfuscations=parsed("none"), attacks=[fewer], seeds=(1, 0, 2))
    subset = run(audit, tmp_path, seen.append)
    assert len(fewer.calls) == 1  # seed 2
    assert [trial.seed for trial in subset] == [1, 0, 2]
    assert {trial.settings["obfuscation"] for trial in subset} == {"none"}
    assert subset[:2] == [extended[1], extended[0]]
    assert (seen[0].done, seen[0].total) == (2, 3)  # the trials of other obfuscations do not count
    assert len(read_trials(tmp_path)) == 5


def test_run_refuses_a_folder_of_other_settings(client: Client, tmp_path: Path) -> None:
    run(an_audit(client, Named(), seeds=(0,)), tmp_path)
    other = dataclasses.replace(client, training=FedSGD(mode="train"))
    with pytest.raises(UsageError, match=r"training was fedsgd, now it is fedsgd:mode=train"):
        run(an_audit(other, Named(), seeds=(0,)), tmp_path)


def test_run_tells_how_far_it_is(client: Client, tmp_path: Path) -> None:
    seen: list[AuditProgress] = []
    audit = Audit(clients=[client], obfuscations=parsed("none", "sign"), attacks=[parse_attack("rog:steps=2")])
    run(audit, tmp_path, seen.append)
    reported = [(s.done, s.total, s.settings["obfuscation"], s.step.step if s.step else None) for s in seen]
    starts_and_ends = [item for item in reported if item[3] is None]
    assert starts_and_ends == [(0, 2, "none", None), (1, 2, "none", None), (1, 2, "sign", None), (2, 2, "sign", None)]
    assert sum(item[3] is not None for item in reported) == 4
    assert [s.trial is not None for s in seen if s.step is None] == [False, True, False, True]


def test_going_on_under_other_circumstances_is_announced(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attack = Counting()
    trials = run(an_audit(client, attack, seeds=(0,)), tmp_path)
    path = tmp_path / "results.jsonl"
    threads = trials[0].versions["threads"]
    path.write_text(path.read_text().replace(f'"threads":"{threads}"', '"threads":"99"'))
    run(an_audit(client, attack, seeds=(0,)), tmp_path)
    assert caplog.text == ""  # nothing was computed
    run(an_audit(client, attack, seeds=(0, 1)), tmp_path)
    assert f"computed under other circumstances (threads 99, now {threads}), which can change scores" in caplog.text
    assert len(attack.calls) == 2 * len(trials)


def test_circumstances_that_differ_are_named() -> None:
    one, two = {"threads": "1", "torch": "2.6", "python": "3.11"}, {"threads": "2", "torch": "2.6", "python": "3.12"}
    assert changed([one, two], one) == "threads 2, now 1"
    assert changed([one, {}], {"torch": "2.7"}) == "threads 1, now not set; torch 2.6, now 2.7"
    assert changed([one], one) == ""
    assert differing([one, two, {}]) == ["threads"]
    assert differing([one, one]) == []
