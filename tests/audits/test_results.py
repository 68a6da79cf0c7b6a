import dataclasses
import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fakes import with_attack
from seeds import seeded
from unveil.audits.results import append, prepare, read_trials, trial_key
from unveil.audits.trial_pictures import save_pictures
from unveil.core.errors import UsageError
from unveil.core.reconstruction import Stop
from unveil.core.records import ATTACK, FORMAT, Enhancement, LayerChoice, Plausibility, ScoredOutcome, Trial

SETTINGS: dict[str, Any] = {
    "attacks": ["rog"],
    "seeds": [0],
    "clients": [{"name": "a", "batch": 2}],
    "controls": ["another client"],
    "arithmetic": {"rog": "float32"},
}


def a_trial(**changes: Any) -> Trial:
    outcome = ScoredOutcome(
        scores={"psnr": [20.0, 22.5]},
        images=["images/k/attack-00.png"],
        labels=[0, 1],
        seconds=1.5,
        assumptions=["It knows."],
        notes=["A line break\nand “ünïcode”"],
    )
    trial = Trial(
        settings={"client": "a", "obfuscation": "none", "attack": "rog"},
        family="none",
        seed=0,
        wire_bits=64,
        raw_bits=64,
        iterations=3,
        peak_mib=None,
        stop=Stop.FINISHED,
        losses=[3.0, 2.0, 1.0],
        blind={"psnr": [10.0, 11.0]},
        outcomes={ATTACK: outcome},
        originals=["images/k/original-00.png"],
        versions={"torch": "2.6"},
    )
    return dataclasses.replace(trial, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(tmp_path / "out", SETTINGS)
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("settings", "cohort_of", "layers"),
    [
        ({"client": "a (cohort 4)", "cohort": "4", "obfuscation": "layers:send=no-conv1/fc"}, "a", ["conv1", "fc"]),
        ({"client": "a (b) (cohort 12) 3", "cohort": "12", "obfuscation": "layers:send=last"}, "a (b) 3", ["last"]),
        ({"client": "a (cohort 1)", "obfuscation": "layers:send=head+sign"}, "a", None),
        ({"client": "a (cohort 4)", "obfuscation": "layers:send=no-all"}, "", None),
        ({"client": "a", "cohort": "4", "obfuscation": "mine:layers:send=head"}, "", None),
        ({"client": "a (cohort 4)", "cohort": "2", "obfuscation": "none"}, "", None),
    ],
)
def test_facts_that_former_records_have_in_texts_alone_are_told_from_them(
    folder: Path, settings: dict[str, str], cohort_of: str, layers: list[str] | None
) -> None:
    append(folder, a_trial(settings=settings))
    record = json.loads(results(folder).read_text())
    del record["cohort_of"], record["layers"]
    results(folder).write_text(json.dumps(record) + "\n")
    (trial,) = read_trials(folder)
    assert trial.cohort_of == cohort_of
    assert (trial.layers.named if trial.layers else None) == layers
    assert trial.layers is None or trial.layers.kept_back == (layers == ["conv1", "fc"])


def test_what_a_record_says_counts_and_not_its_texts(folder: Path) -> None:
    settings = {"client": "a (cohort 4)", "cohort": "4", "obfuscation": "layers:send=head"}
    trial = append(folder, a_trial(settings=settings, layers=LayerChoice(named=["b"], kept_back=True)))
    assert read_trials(folder) == [trial]
    assert trial.cohort_of == ""


def results(folder: Path) -> Path:
    return folder / "results.jsonl"


def test_a_trial_comes_back_as_it_was(folder: Path) -> None:
    trials = [a_trial(seed=0), a_trial(seed=1, peak_mib=12.5)]
    for trial in trials:
        append(folder, trial)
    assert read_trials(folder) == trials
    assert results(folder).read_bytes().count(b"\n") == 2


def test_numbers_that_json_does_not_have_survive(folder: Path) -> None:
    append(folder, with_attack(a_trial(losses=[math.nan, math.inf]), scores={"psnr": [-math.inf, 1.0]}))
    json.loads(results(folder).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    (trial,) = read_trials(folder)
    assert math.isnan(trial.losses[0])
    assert trial.losses[1] == math.inf
    assert trial.scores["psnr"] == [-math.inf, 1.0]


def test_key_depends_on_settings_and_seed_but_not_on_their_order() -> None:
    assert trial_key({"a": "1", "b": "2"}, 0) == trial_key({"b": "2", "a": "1"}, 0)
    assert len({trial_key({"a": "1"}, 0), trial_key({"a": "1"}, 1), trial_key({"a": "2"}, 0)}) == 3


def test_trials_finished_twice_count_once(folder: Path) -> None:
    append(folder, a_trial())
    append(folder, a_trial(peak_mib=2.0))
    assert [trial.peak_mib for trial in read_trials(folder)] == [2.0]


def test_last_line_cut_short_is_dropped_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(folder, a_trial(seed=0))
    whole = results(folder).read_bytes()
    results(folder).write_bytes(whole + whole[: len(whole) // 2])
    assert [trial.seed for trial in read_trials(folder)] == [0]
    assert "cut short" in caplog.text


def test_going_on_after_a_cut_line_loses_nothing_else(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(folder, a_trial(seed=0))
    whole = results(folder).read_bytes()
    results(folder).write_bytes(whole + whole[: len(whole) // 2])
    prepare(folder, SETTINGS)
    append(folder, a_trial(seed=1))
    assert "run again" in caplog.text
    assert [trial.seed for trial in read_trials(folder)] == [0, 1]


def test_last_line_that_only_lacks_its_end_is_kept(folder: Path) -> None:
    append(folder, a_trial(seed=0))
    results(folder).write_bytes(results(folder).read_bytes().rstrip(b"\n"))
    assert [trial.seed for trial in read_trials(folder)] == [0]
    prepare(folder, SETTINGS)
    append(folder, a_trial(seed=1))
    assert [trial.seed for trial in read_trials(folder)] == [0, 1]


def record(**changes: Any) -> dict[str, Any]:
    known = {name: value for name, value in dataclasses.asdict(a_trial()).items() if name != "pictures"}
    known["stop"] = a_trial().stop.value
    return {**known, **changes}


def without(key: str) -> bytes:
    return json.dumps({name: value for name, value in record().items() if name != key}).encode()


def with_(**changes: Any) -> bytes:
    return json.dumps(record(**changes)).encode()


def outcome_with(**changes: Any) -> bytes:
    return with_(outcomes={ATTACK: {**record()["outcomes"][ATTACK], **changes}})


def stated(**changes: Any) -> dict[str, Any]:
    facts = {"unit": "client", "adjacency": "replace", "sampling": "all", "rounds": 1, "releases": 1, "delta": 1e-5}
    return {**facts, **changes}


def plausibility(**changes: Any) -> dict[str, Any]:
    lists = {"rehearsal": {"psnr": [1.0]}, "rehearsal_blind": {"psnr": [1.0]}}
    return {"explained": 0.5, "control": 0.1, **lists, **changes}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", "not JSON"),
        (b"[1]", "trial holds"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (without("blind"), "blind"),
        (with_(outcomes={}), "outcomes are none, not attack"),
        (with_(outcomes={"enhanced": {"scores": {}}}), "outcomes are enhanced, not attack"),
        (with_(stop="finished: every planned step was taken"), "stop"),
        (with_(seed="first"), "seed"),
        (outcome_with(scores={"psnr": ["much"]}), "scores.psnr.0"),
        (with_(outcmes={}), "did you mean 'outcomes'"),
        (outcome_with(images=["/etc/passwd"]), "not inside images/"),
        (with_(chance=[0.5, 1.5]), "chance is not a list of numbers from 0 to 1"),
        (with_(privacy=[stated(delta=0)]), "privacy.0 does not have a delta and a rate up to 1"),
        (with_(privacy=[stated(rounds=0)]), "privacy.0 does not have a delta and a rate up to 1"),
        (with_(privacy=[stated(), stated(releases=2**63)]), "privacy.1.rounds or releases is not a number below 2^63"),
        (with_(privacy=[stated(epsilon="NaN")]), "privacy.0.epsilon is not a number of at least 0"),
        (with_(privacy=[stated(strength=-1)]), "privacy.0.strength is not a number of at least 0"),
        (with_(privacy=[stated(unit="everybody")]), "privacy.0.unit"),
        (with_(originals=["images/../../secret.png"]), "not inside images/"),
        (with_(originals=["images\\..\\..\\secret.png"]), "not inside images/"),
        (with_(wire_bits=10**400), "wire_bits is not a number from 0 to 2^63"),
        (with_(raw_bits=-5), "raw_bits is not a number from 0 to 2^63"),
        (with_(iterations=10**30), "iterations is not a number from 0 to 2^63"),
        (with_(seed=-1), "seed is -1, not a number of at least 0"),
        (outcome_with(seconds="nan"), "seconds is not a number of at least 0"),
        (outcome_with(seconds=1e308), "seconds is not a number of at least 0"),
        (with_(peak_mib=-1), "peak_mib is not a number of at least 0"),
        (outcome_with(scores={"psnr": []}), "scores.psnr has 0 values, not one a picture"),
        (outcome_with(scores={"psnr": [1.0]}), "blind.psnr has 2 values, and scores.psnr has 1"),
        (outcome_with(scores={"psnr": [1.0, 1e308]}), "scores.psnr holds a number beyond 1e+15"),
        (with_(blind={"psnr": [1.0, -1e308]}), "blind.psnr holds a number beyond 1e+15"),
        (outcome_with(controls={"a": {"psnr": []}}), "controls.a.psnr has 0 values"),
        (outcome_with(controls={"a": {"psnr": [1.0]}}), "controls.a.psnr has 1 values, and scores.psnr has 2"),
        (outcome_with(confidence=[1.0]), "confidence has 1 values, and scores have 2"),
        (with_(losses=[1.0] * 100_001), "losses has more than 100000 entries"),
        (outcome_with(plausibility=plausibility(explained="nan")), "plausibility.explained is not a number"),
        (outcome_with(plausibility=plausibility(rehearsal={"psnr": [1.0, 2.0]})), "psnr has 2 values, and"),
        (outcome_with(notes=["x" * (2**16 + 1)]), "a text in it has more than 65536 characters"),
        (with_(settings={"client": "x" * (2**16 + 1)}), "a text in it has more than 65536 characters"),
        (outcome_with(scores={"x" * (2**16 + 1): [1.0, 2.0]}), "a text in it has more than 65536 characters"),
    ],
)
def test_a_malformed_line_is_named(folder: Path, line: bytes, message: str) -> None:
    append(folder, a_trial())
    with results(folder).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(UsageError, match=r"results\.jsonl, line 2: ") as error:
        read_trials(folder)
    assert message in str(error.value)


def test_a_folder_that_holds_no_results(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no results"):
        read_trials(tmp_path)


def test_a_prepared_folder_has_no_trials_yet(folder: Path) -> None:
    assert read_trials(folder) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "clients": [{"name": "a", "batch": 4}]}, "clients.a.batch was 2, now it is 4"),
        ({**SETTINGS, "clients": [{"name": "b"}, {"name": "a"}]}, "clients.a.batch was 2, now it is absent"),
        ({**SETTINGS, "controls": ["labels only"]}, "controls.0 was another client, now it is labels only"),
        ({**SETTINGS, "arithmetic": {"rog": "bfloat16"}}, "arithmetic.rog was float32, now it is bfloat16"),
        ({**SETTINGS, "enhancer": "faithful"}, "enhancer was absent, now it is faithful"),
    ],
)
def test_other_settings_are_refused_and_named(folder: Path, settings: dict[str, Any], message: str) -> None:
    prepare(folder, SETTINGS)  # the same settings are welcome
    with pytest.raises(UsageError, match="--out") as error:
        prepare(folder, settings)
    assert message in str(error.value)


def test_more_and_less_of_a_list_share_a_folder_whose_settings_have_all(folder: Path) -> None:
    more = {
        **SETTINGS,
        "attacks": ["rog", "dlg"],
        "seeds": [1, 2],
        "clients": [{"name": "b", "batch": 4}],
        "arithmetic": {"rog": "float32", "dlg": "float32"},
    }
    prepare(folder, more)
    everything = {
        **SETTINGS,
        "attacks": ["rog", "dlg"],
        "seeds": [0, 1, 2],
        "clients": [{"name": "a", "batch": 2}, {"name": "b", "batch": 4}],
        "arithmetic": {"rog": "float32", "dlg": "float32"},
    }
    assert json.loads((folder / "audit.json").read_text()) == everything
    prepare(folder, SETTINGS)  # a part of what is there changes nothing
    assert json.loads((folder / "audit.json").read_text()) == everything


def test_results_without_their_settings_are_refused(folder: Path) -> None:
    append(folder, a_trial())
    (folder / "audit.json").unlink()
    with pytest.raises(UsageError, match=r"not audit\.json"):
        prepare(folder, SETTINGS)


def test_broken_settings_are_refused(folder: Path) -> None:
    (folder / "audit.json").write_text("{")
    with pytest.raises(UsageError, match=r"audit\.json cannot be read"):
        prepare(folder, SETTINGS)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write to"):
        prepare(tmp_path / "file" / "out", SETTINGS)


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        append(folder, a_trial())


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs pipes and devices with names")
@pytest.mark.parametrize("name", ["results.jsonl", "audit.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "circle"])
def test_what_is_no_regular_file_is_never_waited_for(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else name)
    says = rf"{name} is a {kind if kind in ('pipe', 'folder') else 'link'}, (expected a regular file|which could lead)"
    with pytest.raises(UsageError, match=says):
        prepare(folder, SETTINGS)
    if name == "results.jsonl":
        with pytest.raises(UsageError, match=says):
            read_trials(folder)


def test_files_of_results_are_measured_before_they_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(folder, a_trial())
    monkeypatch.setattr("unveil.audits.results.LARGEST", 100)
    with pytest.raises(UsageError, match=r"results\.jsonl has .* and at most 100 bytes are read"):
        read_trials(folder)


@pytest.mark.parametrize("text", ["x" * 100_000, "\x1b[31mred", "\ud800"])
def test_a_message_about_a_line_stays_one_short_line(folder: Path, text: str) -> None:
    for line in (with_(**{text: 1}), with_(images=[text]), with_(scores={text: [text]})):
        results(folder).write_bytes(line + b"\n")
        with pytest.raises(UsageError) as error:
            read_trials(folder)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 1500


def test_pictures_are_saved_as_eight_bits(folder: Path) -> None:
    images = torch.rand(2, 3, 4, 5, generator=seeded(0))
    paths = list(save_pictures(folder, "key", "original", images))
    assert paths == ["images/key/original-00.png", "images/key/original-01.png"]
    for path, image in zip(paths, images, strict=True):
        saved = np.asarray(Image.open(folder / path))
        assert np.array_equal(saved, (image * 255).round().permute(1, 2, 0).numpy().astype(np.uint8))


def test_grey_pictures_are_saved_too(folder: Path) -> None:
    (path,) = save_pictures(folder, "key", "original", torch.ones(1, 1, 4, 5))
    with Image.open(folder / path) as picture:
        assert picture.mode == "L"
        assert picture.getextrema() == (255, 255)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"settings": {"client": "a"}, "scores": {"psnr": [1.0]}}', f"an unveil before format {FORMAT}"),
        (b'{"settings": {"scene": "a", "knowledge": "everything known"}}', "run the audit again into another folder"),
        (with_(format=FORMAT + 1), f"by a newer unveil (format {FORMAT + 1}, this one reads {FORMAT}); update unveil"),
    ],
)
def test_records_of_another_format_are_refused_in_a_sentence(folder: Path, line: bytes, message: str) -> None:
    results(folder).write_bytes(line + b"\n")
    with pytest.raises(UsageError, match=r"results\.jsonl, line 1: ") as error:
        read_trials(folder)
    assert message in str(error.value)


def test_the_documentation_names_every_key_of_a_record() -> None:
    page = (Path(__file__).parents[2] / "docs/results.md").read_text(encoding="utf-8")
    record_of = page.partition("## A line of results.jsonl")[2]
    keys = {
        key
        for row in re.findall(r"^\| (`[a-z_`, ]+`) \|", record_of, re.MULTILINE)
        for key in re.findall(r"`(\w+)`", row)
    }
    fields = {*record(), *(field.name for field in dataclasses.fields(ScoredOutcome))}
    assert keys == fields
    assert f"format {FORMAT}" in page
    for stop in Stop:
        assert f"`{stop.value}`" in page
    for field in (*dataclasses.fields(Enhancement), *dataclasses.fields(Plausibility)):
        assert f"`{field.name}`" in page
