import re
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from unveil.attacks import parse as parse_attack
from unveil.audits.scoring import MetricSelection
from unveil.cli.app import TEMPLATE, main
from unveil.cli.config import load
from unveil.cli.schema import RENAMED, AuditTable, ClientTable, MetricsTable, PrivacyTable
from unveil.core.errors import UsageError
from unveil.privacy.terms import PrivacyTerms

GOOD = """
seeds = [0, 1]
obfuscations = ["none", "topk:density=0.05+qsgd:levels=16,norm=max"]
threat_models = ["obfuscation+labels unknown", "everything known"]

[[client]]
name = "small"
size = 16
batch = 2
training = "fedavg:steps=2,lr=0.003"

[[attack]]
name = "rog"
steps = 7

[[attack]]
name = "dlg"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "audit.toml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_a_file_becomes_an_audit(tmp_path: Path) -> None:
    audit = load(write(tmp_path, GOOD))
    (client,) = audit.clients
    assert (client.name, client.model_name, client.source) == ("small", "lenet", "builtin")
    assert tuple(client.batch.images.shape) == (2, 3, 16, 16)
    assert str(client.training) == "fedavg:steps=2,lr=0.003"
    assert [str(o) for o in audit.obfuscations] == ["none", "topk:density=0.05+qsgd:levels=16,norm=max"]
    assert list(audit.attacks) == [parse_attack("rog:steps=7"), parse_attack("dlg")]
    assert list(audit.seeds) == [0, 1]
    assert list(map(str, audit.threat_models)) == ["obfuscation+labels unknown", "everything known"]


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    audit = load(write(tmp_path, '[[client]]\nname = "a"\nsize = 16\nbatch = 1\n[[attack]]\nname = "rog"\n'))
    assert [str(o) for o in audit.obfuscations] == ["none"]
    assert list(audit.seeds) == [0]
    assert list(map(str, audit.threat_models)) == ["everything known"]
    assert audit.metrics == MetricSelection()


def test_the_terms_of_privacy(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD)).privacy is None
    audit = load(write(tmp_path, f"{GOOD}[privacy]\nrounds = 3\ndelta = 1e-6\nadjacency = 'zero-out'\n"))
    assert audit.privacy == PrivacyTerms(rounds=3, delta=1e-6, adjacency="zero-out")
    assert load(write(tmp_path, f"{GOOD}[privacy]\n")).privacy == PrivacyTerms()


def test_the_template_is_an_audit() -> None:
    assert len(load(TEMPLATE)) == 4


def test_the_template_shows_every_key() -> None:
    for item in (*fields(AuditTable), *fields(ClientTable), *fields(MetricsTable), *fields(PrivacyTable)):
        assert item.name in TEMPLATE.read_text(encoding="utf-8")


def test_folders_are_relative_to_the_file_and_named_as_in_it(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / "dogs").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "photos" / "cats" / "a.png")
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "photos" / "dogs" / "b.png")
    (client,) = load(write(tmp_path, changed("size = 16", 'size = 16\nimages = "photos"'))).clients
    assert client.source == "photos"
    assert sorted(client.batch.labels.tolist()) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("attack.0.steps=50", "attack 0: rog:steps=50"),
        ("attack.1.name=rog", "attack 1: rog"),
        ("attack.1.name=rog:steps=9", "attack 1: rog:steps=9"),
        ("seeds=[5]", "seeds [5]"),
        ("seeds = [5, 6]", "seeds [5, 6]"),
        ("client.0.name=a = b", "client a = b"),
        ("client.0.name='x'", "client x"),
        ("attack.2.name=idlg", "attack 2: idlg"),
        ("metrics.decoys=1", "decoys 1"),
    ],
)
def test_values_can_be_overridden(tmp_path: Path, override: str, expected: str) -> None:
    audit = load(write(tmp_path, GOOD), [override])
    found = [
        *(f"attack {number}: {attack}" for number, attack in enumerate(audit.attacks)),
        f"seeds {list(audit.seeds)}",
        f"client {audit.clients[0].name}",
        f"decoys {audit.metrics.decoys}",
    ]
    assert expected in found


def test_a_table_that_the_file_does_not_have_can_be_set(tmp_path: Path) -> None:
    overrides = ["client.0.normalise.mean=0.5", "client.0.normalise.std=0.25", "client.0.model.name=lenet"]
    text = '[[attack]]\nname = "rog"\n[[client]]\nname = "a"\nsize = 16\nbatch = 1\n'
    (client,) = load(write(tmp_path, text), overrides).clients
    assert (client.normalisation, client.model_name) == ("mean 0.5, std 0.25", "lenet")


@pytest.mark.slow
def test_several_batches_are_clients_of_other_pictures_with_one_model(tmp_path: Path) -> None:
    text = (
        '[[client]]\nname = "a"\nsize = 16\nbatch = 3\nbatches = 2\n[[attack]]\nname = "rog"\n[metrics]\ndecoys = 4\n'
    )
    first, second = load(write(tmp_path, text)).clients
    (alone,) = load(write(tmp_path, text), ["client.0.batches=1"]).clients
    assert (alone.name, first.name, second.name) == ("a", "a 1", "a 2")
    assert torch.equal(first.images, alone.images)
    assert all(torch.equal(*pair) for pair in zip(first.model.parameters(), second.model.parameters(), strict=True))
    groups = [first.images, second.images, first.evaluation.decoys, first.evaluation.others.images]
    everything = torch.cat([images.flatten(1) for images in groups if images is not None])
    assert len(everything) == 3 + 3 + 4 + 3
    assert len(everything.unique(dim=0)) == len(everything)  # no picture stands in two of them
    assert torch.equal(first.evaluation.decoys, second.evaluation.decoys)
    with pytest.raises(UsageError, match="holds 14 pictures, of which 12 are taken: 3 others are more than there are"):
        load(write(tmp_path, text), ["client.0.batches=5", "metrics.decoys=0"])


@pytest.mark.slow
def test_cohorts_are_clients_of_one_table(tmp_path: Path) -> None:
    text = '[[client]]\nname = "a"\nsize = 16\nbatch = 2\n[[attack]]\nname = "rog"\n'
    found = load(write(tmp_path, text), ["client.0.cohort=[1, 3]", "client.0.batches=2"]).clients
    assert [(client.name, client.cohort, len(client.images)) for client in found] == [
        ("a (cohort 1) 1", 1, 2),
        ("a (cohort 1) 2", 1, 2),
        ("a (cohort 3) 1", 3, 6),
        ("a (cohort 3) 2", 3, 6),
    ]
    assert [client.cohort_of for client in found] == ["a 1", "a 2", "a 1", "a 2"]
    assert len(torch.cat([client.images for client in found[2:]]).flatten(1).unique(dim=0)) == 12
    (one,) = load(write(tmp_path, text), ["client.0.cohort=3"]).clients
    assert (one.name, one.cohort, one.cohort_of) == ("a", 3, "")
    assert torch.equal(one.images, found[2].images)


def test_several_rounds_are_clients_of_one_table(tmp_path: Path) -> None:
    text = (
        '[[client]]\nname = "a"\nsize = 16\nbatch = 2\ntraining = "fedavg:steps=1,lr=0.1"\n[[attack]]\nname = "rog"\n'
    )
    rounds = ["client.0.rounds=[1, 3]", "client.0.error_feedback=true"]
    found = load(write(tmp_path, text), rounds)
    assert [(one.name, one.rounds, one.error_feedback, one.rounds_of) for one in found.clients] == [
        ("a (1 round)", 1, False, "a"),
        ("a (3 rounds)", 3, True, "a"),
    ]
    assert [trial.settings.get("rounds") for trial in found.tasks()] == [None, "3"]
    assert found.settings()["clients"][1]["error_feedback"] == "yes"
    (one,) = load(write(tmp_path, text), ["client.0.rounds=3", "client.0.server_lr=0.5"]).clients
    assert (one.name, one.server_lr, one.rounds_of) == ("a", 0.5, "")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["client.0.rounds=0"], "client.0.rounds: expected a number of rounds from 1 to 1,000, or a list of such"),
        (["client.0.rounds=[1, 3]"], "client.0.rounds: between two rounds the server multiplies a gradient by its"),
        (["client.0.error_feedback=true"], "client.0.error_feedback: one round has no next one; set rounds = [1, 3]"),
    ],
)
def test_rounds_that_cannot_be(changes: list[str], says: str, tmp_path: Path) -> None:
    text = '[[client]]\nname = "a"\nsize = 16\nbatch = 2\n[[attack]]\nname = "rog"\n'
    with pytest.raises(UsageError, match=re.escape(says)):
        load(write(tmp_path, text), changes)


def test_layers_are_sent_one_choice_after_the_other(tmp_path: Path) -> None:
    text = '[[client]]\nname = "a"\nsize = 16\nbatch = 1\n[[attack]]\nname = "rog"\n'
    named = load(write(tmp_path, text), ['layers=["head", "no-head"]']).obfuscations
    assert list(map(str, named)) == ["none", "layers:send=head", "layers:send=no-head"]
    every = load(write(tmp_path, text), ["layers=each"]).obfuscations
    wanted = ["head", "no-head", "0", "no-0", "3", "no-3"]
    assert list(map(str, every)) == ["none", *(f"layers:send={choice}" for choice in wanted)]
    with pytest.raises(UsageError, match=r'layers: expected "each", or a list of what is sent, got "some"; write'):
        load(write(tmp_path, text), ["layers=some"])
    other = '[[client]]\nname = "b"\nmodel = "vgg7"\nsize = 16\nbatch = 1\n'
    with pytest.raises(UsageError, match="the networks of a and b have other blocks; give each an audit file of its"):
        load(write(tmp_path, text + other), ["layers=each"])


def test_clients_of_a_cohort_may_obfuscate_their_own_updates(tmp_path: Path) -> None:
    text = '[[client]]\nname = "a"\nsize = 16\nbatch = 1\ncohort_obfuscates = "each"\n[[attack]]\nname = "rog"\n'
    found = load(write(tmp_path, text), ["client.0.cohort=[1, 2]"]).clients
    assert [client.each_obfuscates for client in found] == [False, True]
    with pytest.raises(UsageError, match=r"client.0.cohort_obfuscates: one client has no mean; set cohort = \[1, 4\]"):
        load(write(tmp_path, text))
    with pytest.raises(UsageError, match=r"client.0.cohort_obfuscates: expected 'mean' or 'each', got"):
        load(write(tmp_path, text), ["client.0.cohort_obfuscates=all"])


@pytest.mark.parametrize("cohort", ["0", "[]", "[1, 0]", '"4"', "true", "2.5", "[1, 2, 200000]"])
def test_a_cohort_is_a_number_of_clients(cohort: str, tmp_path: Path) -> None:
    text = f'[[client]]\nname = "a"\nsize = 16\nbatch = 2\ncohort = {cohort}\n[[attack]]\nname = "rog"\n'
    with pytest.raises(UsageError, match=r"client.0.cohort: expected a number of clients from 1 to 100,000, or a list"):
        load(write(tmp_path, text))


def test_a_model_stands_beside_the_audit_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "beside_of_test_config.py").write_text(
        "from torch.nn import Flatten, Linear, Sequential\n"
        "def net(classes):\n"
        "    from weights_of_test_config import inputs\n"  # imported later, too
        "    return Sequential(Flatten(), Linear(inputs, classes))\n"
    )
    (tmp_path / "weights_of_test_config.py").write_text("inputs = 768\n")
    overrides = ["client.0.model=beside_of_test_config:net"]
    (client,) = load(write(tmp_path, GOOD), overrides).clients
    assert client.model_name == "beside_of_test_config:net"
    with pytest.raises(UsageError, match="No module named 'nowhere'; put it beside the audit file, or run"):
        load(write(tmp_path, GOOD), ["client.0.model=nowhere:net"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds", "expected KEY=VALUE"),
        ("attack.2.steps=5", "attack.2 needs a name"),
        ("attack.3.steps=5", "the file has no '3' there"),
        ("attack.first.steps=5", "the file has no 'first' there"),
        ("atack.0.steps=5", "unknown key 'atack'; did you mean 'attack'?"),
        ("metric.decoys=5", "unknown key 'metric'; did you mean 'metrics'?"),
        ("client.0.name.x=5", "client.0.name is not a table"),
        ("seeds.0=5", "seeds is not a table"),
        ("attack.0.stpes=5", "with --set attack.0.stpes=5: attack 'rog' has no setting 'stpes'; did you mean 'steps'?"),
        ("sedes=[5]", "did you mean 'seeds'?"),
        ("seeds=[5]\nthreat_models = ['everything known']", "seeds: expected a valid list"),
    ],
)
def test_an_override_that_does_not_fit(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load(write(tmp_path, GOOD), [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("seeds", "seedz"), "unknown key 'seedz'; did you mean 'seeds'?"),
        (changed("batch = 2", "btach = 2"), "unknown key 'btach' in client.0; did you mean 'batch'?"),
        (changed('name = "small"', 'nmae = "small"'), "unknown key 'nmae' in client.0; did you mean 'name'?"),
        (changed("steps = 7", "stpes = 7"), "attack 'rog' has no setting 'stpes'; did you mean 'steps'?"),
        (changed('name = "dlg"', 'name = "dgl"'), "unknown attack 'dgl'; did you mean 'dlg'?"),
        (changed('name = "dlg"', "steps = 3"), "attack.1 needs a name"),
        (changed("topk:density", "topk:desnity"), "no setting 'desnity'; did you mean 'density'?"),
        (changed("density=0.05", "density=0"), "density"),
        (changed("fedavg", "fedavrg"), "unknown training 'fedavrg'; did you mean 'fedavg'?"),
        (changed("seeds = [0, 1]", "seeds = 3"), "seeds: expected a valid list, got 3"),
        (changed("seeds = [0, 1]", 'seeds = ["a"]'), 'seeds.0: expected a valid integer, got "a"'),
        (changed("seeds = [0, 1]", "seeds = [true]"), "seeds.0: expected a valid integer, got true"),
        (changed("seeds = [0, 1]", "seeds = [-1]"), "seeds.0: expected greater than or equal to 0, got -1"),
        (changed("seeds = [0, 1]", "seeds = []"), "at least one of seeds"),
        (changed("seeds = [0, 1]", "seeds = [1, 1]"), "1 is given twice in seeds"),
        (changed("batch = 2", "batch = 0"), "client.0.batch: expected greater than or equal to 1, got 0"),
        (changed("batch = 2", "batch = 2.5"), "client.0.batch: expected a valid integer, got 2.5"),
        (changed("batch = 2", "batch = 2026-01-01"), 'client.0.batch: expected a valid integer, got "2026-01-01"'),
        (changed("batch = 2", "batch = 1000"), "a batch of 1000 is larger than 'builtin'"),
        (
            changed("obfuscation+labels", "obfuscations"),
            "'obfuscations' cannot be withheld; did you mean 'obfuscation'",
        ),
        (changed("everything known", "everything knwon"), "did you mean 'everything known'"),
        (
            changed('["obfuscation+labels unknown", "everything known"]', '"labels unknown"'),
            "threat_models: expected a valid list",
        ),
        (changed("size = 16", 'size = 16\nimages = "none"'), "is not a folder"),
        (changed("size = 16", 'size = 16\nmodel = "lenett"'), "unknown model 'lenett'; did you mean 'lenet'?"),
        (changed("[[client]]", "[client]"), "client: expected a valid list"),
        (changed("steps = 7", 'steps = "many"'), "steps=many does not fit"),
        ('[[client]]\nname = "a"\n', "'attack' is missing; add a [[attack]] table"),
        (f"{GOOD}[privacy]\nround = 2", "unknown key 'round' in privacy; did you mean 'rounds'?"),
        (f"{GOOD}[privacy]\nrounds = 0", "privacy.rounds: expected greater than or equal to 1, got 0"),
        (
            f"{GOOD}[privacy]\ndelta = 1.0",
            "privacy: expected 0 < delta < 1, got 1; take less than one over the examples",
        ),
        (f"{GOOD}[privacy]\nsampling = 'shuffled'", "privacy.sampling: expected 'all', 'poisson' or 'fixed-size', got"),
        (
            f"{GOOD}[privacy]\nadjacency = 'swap'",
            "privacy.adjacency: expected 'replace', 'zero-out' or 'add-remove', got",
        ),
        (f"{GOOD}[privacy]\nsampling = 'poisson'", "privacy: Poisson sampling needs the number of examples"),
        (f"{GOOD}[privacy]\nclaimed_epsilon = 0.0", "privacy: expected claimed_epsilon > 0"),
        ("seeds = [", "is not TOML"),
        ("seeds = " + "[" * 100_000, "is not TOML"),
        ("seeds = " + "[" * 300 + "]" * 300, "it cannot be understood"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=r"audit\.toml") as error:
        load(write(tmp_path, text))
    assert message in str(error.value)


def test_an_override_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--set 'client.0.images=.udcff': expected UTF-8; rename the file"):
        load(write(tmp_path, ""), ["client.0.images=\udcff"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist; write one to start from with `unveil init"):
        load(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="is a folder, expected a regular file; give a TOML file"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'labels = "\xe9"')
    with pytest.raises(UsageError, match="is not TOML"):
        load(tmp_path / "latin.toml")


def test_the_good_file_of_these_tests_is_good() -> None:
    assert set(tomllib.loads(GOOD)) == {"seeds", "obfuscations", "threat_models", "client", "attack"}


def test_a_variant_is_a_set_of_overrides_that_the_file_keeps(tmp_path: Path) -> None:
    text = GOOD + '\n[variant.long]\nseeds = [0, 1, 2]\n"attack.0.steps" = 70\n'
    assert load(write(tmp_path, text)).attacks[0] == parse_attack("rog:steps=7")
    long = load(write(tmp_path, text), ["seeds=[5]"], variant="long")
    assert (list(long.seeds), long.attacks[0]) == ([5], parse_attack("rog:steps=70"))


@pytest.mark.parametrize(
    ("tables", "name", "message"),
    [
        ("[variant.long]\nseeds = [3]", "lang", "has no variant 'lang'; did you mean 'long'?"),
        ("", "long", "has no variant 'long'; it has none; drop --variant"),
        ("variant = 3", "long", "has no variant 'long'"),
        ('[variant.x]\n"attack.9.steps" = 1', "x", "variant x, attack.9.steps: the file has no '9' there"),
        ("[variant.x]\nsteps = 1", "x", "unknown key 'steps'"),
    ],
)
def test_a_variant_that_cannot_be_used(tmp_path: Path, tables: str, name: str, message: str) -> None:
    first, *rest = tables.partition("[")
    with pytest.raises(UsageError, match=re.escape(message)):
        load(write(tmp_path, f"{first}\n{GOOD}\n{''.join(rest)}\n"), variant=name)


OLD_KEYS = [
    (changed("[[client]]", "[[scene]]"), "the key 'scene' is now called 'client'; write [[client]]"),
    (
        changed("threat_models", "knowledge"),
        "the key 'knowledge' is now called 'threat_models'; write threat_models = [...]",
    ),
    (GOOD + "[measures]\ndecoys = 6\n", "the key 'measures' is now called 'metrics'; write [metrics]"),
    (changed("obfuscation+labels", "channel+labels"), "'channel' is now called 'obfuscation'; write that"),
]


@pytest.mark.parametrize(("text", "sentence"), OLD_KEYS, ids=[sentence for _, sentence in OLD_KEYS])
def test_a_key_of_an_old_version_names_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["audit", str(write(tmp_path, text)), "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    assert line.endswith(sentence)


@pytest.mark.parametrize("key", ["scene.0.size", "knowledge", "measures.decoys"])
def test_an_override_of_an_old_key_names_the_new_one(tmp_path: Path, key: str) -> None:
    new = RENAMED[key.partition(".")[0]]
    with pytest.raises(UsageError, match=re.escape(f"--set {key}=1: ") + ".*" + re.escape(f"write {new}")):
        load(write(tmp_path, GOOD), [f"{key}=1"])
    with pytest.raises(UsageError, match=re.escape(f"write {new}")):
        load(write(tmp_path, GOOD + f"[variant.old]\n'{key}' = 1\n"), variant="old")


def test_every_renamed_key_is_tried() -> None:
    assert {key for text, _ in OLD_KEYS for key in RENAMED if re.search(rf"\b{key}\b", text)} == set(RENAMED)
    assert not set(RENAMED) & {item.name for item in fields(AuditTable)}
