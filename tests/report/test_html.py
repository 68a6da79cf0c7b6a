import dataclasses
import math
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fakes import with_attack
from unveil.core.errors import UsageError
from unveil.core.reconstruction import Stop
from unveil.core.records import Trial
from unveil.report import summarise, write_report
from unveil.report.conclusion import NOT_PROVED
from unveil.report.html import render
from unveil.report.levels import Level
from unveil.report.section import best_control

MakeTrial = Callable[..., Trial]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>`"


class Page(HTMLParser):
    """Every tag with its attributes, the text, and a check that tags are closed in order."""

    VOID = frozenset({"meta", "img", "br", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def audit(trial: MakeTrial, **settings: object) -> list[Trial]:
    return [trial(obfuscation=spec, pictures=True, **settings) for spec in ("none", "fp16", "topk:density=0.1")]


def read(folder: Path, trials: list[Trial], **settings: str) -> tuple[Page, str]:
    text = write_report(folder, trials, **settings).read_text(encoding="utf-8")
    return Page(text), text


def wall(page: Page) -> list[dict[str, str | None]]:
    """The pictures of the sections, without the examples that explain the scale."""
    return [picture for picture in page.all("img") if not (picture["alt"] or "").startswith("example")]


def test_every_picture_is_inside_and_described(folder: Path, trial: MakeTrial) -> None:
    page, _ = read(folder, audit(trial))
    pictures = wall(page)
    assert len(pictures) == 4 * 8
    for picture in page.all("img"):
        assert picture["alt"]
        assert (picture["src"] or "").startswith("data:image/png;base64,")
    assert sum((picture["alt"] or "").startswith("original") for picture in pictures) == 8


def test_nothing_is_loaded_and_nothing_runs(folder: Path, trial: MakeTrial) -> None:
    page, text = read(folder, audit(trial))
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text)
    for tag in ("script", "link", "iframe", "object", "form", "base"):
        assert page.all(tag) == []
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_hostile_names_stay_text(folder: Path, trial: MakeTrial) -> None:
    trials = audit(trial, client=HOSTILE, attack=HOSTILE, training=HOSTILE, notes=[HOSTILE])
    trials.append(trial(client=HOSTILE, obfuscation=HOSTILE))
    page, _ = read(folder, trials, reproduce=HOSTILE, settings=HOSTILE)
    assert page.all("script") == []
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert HOSTILE in page.text


def test_the_parts_stand_in_order(folder: Path, trial: MakeTrial) -> None:
    page, _ = read(folder, audit(trial), reproduce="unveil audit a.toml", settings="seeds = [0]")
    parts = [
        "The pictures came back through all 2 obfuscations tested.",
        "Verdict",
        "What came back",
        "Leakage against bits on the wire",
        "Loss of the attack",
        "What the attacker was granted",
        "What this does not prove",
        "How to reproduce it",
        "unveil audit a.toml",
        "seeds = [0]",
        "Versions",
    ]
    text = page.text[page.text.index("What the update gives away") :]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    for paragraph in NOT_PROVED:
        assert paragraph in text


def test_the_seed_of_the_pictures_is_said(folder: Path, trial: MakeTrial) -> None:
    page, _ = read(folder, audit(trial, seed=7) + audit(trial, seed=9))
    assert "Run with seed 7, the first of 2." in page.text


def test_every_scene_and_attack_has_a_section(folder: Path, trial: MakeTrial) -> None:
    trials = [t for client in "ab" for attack in ("rog", "dlg") for t in audit(trial, client=client, attack=attack)]
    page, _ = read(folder, trials)
    anchors = [attrs["id"] for attrs in page.all("section") if attrs.get("class") == "client"]
    assert len(anchors) == 4
    links = [attrs["href"] for attrs in page.all("a")]
    assert links[-4:] == [f"#{anchor}" for anchor in anchors]
    assert set(links[:-4]) <= set(links[-4:])  # of the overview, which has a row for each obfuscation


def test_ids_are_unique(folder: Path, trial: MakeTrial) -> None:
    page, _ = read(folder, audit(trial) + audit(trial, client="other"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_missing_scores_losses_and_pictures_survive(folder: Path, trial: MakeTrial) -> None:
    odd = [
        trial(psnr=[math.nan] * 2, losses=[math.nan, math.inf], stop=Stop.DIVERGED),
        trial(obfuscation="fp16", psnr=[math.inf, -math.inf], losses=[]),
        trial(obfuscation="bf16", psnr=[], losses=[0.0]),
    ]
    page, _ = read(folder, odd)
    assert wall(page) == []
    assert "INCONCLUSIVE" in page.text


def test_a_missing_picture_leaves_a_place(folder: Path, trial: MakeTrial) -> None:
    (folder / "images/03.png").unlink()
    page, _ = read(folder, [trial(pictures=True)])
    assert len(wall(page)) == 2 * 7
    assert sum(attrs.get("class") == "absent" for attrs in page.all("span")) == 2


@pytest.mark.parametrize("kind", ["outside", "no picture"])
def test_only_pictures_of_the_folder_are_embedded(folder: Path, trial: MakeTrial, kind: str) -> None:
    inside = folder / "results"
    inside.mkdir()
    path = "../images/00.png" if kind == "outside" else "secret.png"
    (inside / "secret.png").write_text("not a picture")
    one = trial(psnr=[20.0])
    one.final.images.append(path)
    one.originals.append(path)
    page, _ = read(inside, [one])
    assert wall(page) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs pipes and devices with names")
@pytest.mark.parametrize("kind", ["outside", "pipe", "device", "circle", "large", "binary", "folder"])
def test_only_settings_of_the_folder_are_shown(
    folder: Path, trial: MakeTrial, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    path = folder / "audit.json"
    if kind == "outside":
        secret = tmp_path_factory.mktemp("other") / "secret.txt"
        secret.write_text("SECRET")
        path.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        path.write_text("SECRET" + " " * 2**22)
    elif kind == "binary":
        path.write_bytes(b"SECRET\xff")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    assert "SECRET" not in render(folder, [trial(pictures=True)])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs pipes and devices with names")
@pytest.mark.parametrize("kind", ["pipe", "device", "circle", "folder", "nul", "long"])
def test_a_picture_that_is_no_regular_file_counts_as_missing(folder: Path, trial: MakeTrial, kind: str) -> None:
    file = folder / "images" / "odd.png"
    path = "images/odd.png"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind in ("device", "circle"):
        file.symlink_to("/dev/zero" if kind == "device" else file.name)
    else:
        path = "images/a\0b.png" if kind == "nul" else f"images/{'x' * 5000}.png"
    made = trial(pictures=True)
    page = render(folder, [with_attack(made, images=[path, *made.final.images[1:]])])
    assert len(wall(Page(page))) == 15


def test_the_audit_s_own_settings_are_shown(folder: Path, trial: MakeTrial) -> None:
    (folder / "audit.json").write_text('{"seeds": [41, 42]}', encoding="utf-8")
    assert '{"seeds": [41, 42]}' in read(folder, [trial()])[0].text


def test_a_command_that_is_no_text_does_not_stop_the_report(folder: Path, trial: MakeTrial) -> None:
    path = write_report(folder, [trial()], reproduce="unveil audit \udcff.toml")
    assert r"unveil audit \udcff.toml" in path.read_text(encoding="utf-8")


def test_without_trials_it_says_so(folder: Path) -> None:
    assert "Nothing was audited" in read(folder, [])[0].text


def test_the_same_trials_give_the_same_bytes(folder: Path, trial: MakeTrial) -> None:
    assert read(folder, audit(trial))[1] == read(folder, audit(trial))[1]


def test_writing_leaves_nothing_else_behind(folder: Path, trial: MakeTrial) -> None:
    write_report(folder, [trial()])
    write_report(folder, [trial()])
    assert sorted(path.name for path in folder.iterdir()) == ["images", "report.html"]


def test_a_failed_write_keeps_the_old_report(folder: Path, trial: MakeTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(folder, [trial()])
    before = path.read_bytes()

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match=r"cannot write .*No space left"):
        write_report(folder, [trial(client="new")])
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in folder.iterdir()) == ["images", "report.html"]


def test_a_folder_that_cannot_be_written_is_one_sentence(folder: Path, trial: MakeTrial) -> None:
    with pytest.raises(UsageError, match=r"^cannot write .*report\.html: .*; make .* a folder that can be written$"):
        write_report(folder / "images/00.png", [trial()])


def test_the_attacks_own_confidence_is_compared_with_the_truth(folder: Path, trial: MakeTrial) -> None:
    psnr = [20.0, 21.0, 22.0, 23.0]
    page, _ = read(folder, [trial(psnr=psnr, confidence=[1.0, 2.0, 4.0, 3.0])])
    assert "rank correlation of 0.80 with their PSNR" in page.text
    page, _ = read(folder, [trial(psnr=psnr)])
    assert "rank correlation" not in page.text


def test_several_choices_of_layers_have_a_table(folder: Path, trial: MakeTrial) -> None:
    head = trial(obfuscation="layers:send=head")
    last = trial(obfuscation="layers:send=no-last", psnr=[12.0] * 8, wire_bits=2_000_000)
    page, _ = read(folder, [trial(), head, last])
    assert "Which layers the leak comes from" in page.text
    assert re.search(r"all but the last layer.*14\.2.*75\.0 %.*only the head.*nothing measurable", page.text, re.DOTALL)
    assert "Which layers the leak comes from" not in read(folder, [trial(), head])[0].text


def test_several_sizes_of_a_cohort_have_a_chart(folder: Path, trial: MakeTrial) -> None:
    made = trial()
    settings = {**made.settings, "client": "demo (cohort 4)", "cohort": "4"}
    larger = dataclasses.replace(made, settings=settings, cohort_of="demo")
    _, page = read(folder, [made, larger])
    assert "What the mean over several clients hides" in page
    assert "4 clients, 8 pictures" in page
    assert "What the mean over several clients hides" not in read(folder, [made])[1]


def test_several_threat_models_have_a_chart(folder: Path, trial: MakeTrial) -> None:
    page, _ = read(folder, [trial(), trial(threat_model="labels unknown")])
    assert "What the attacker must know" in page.text
    page, _ = read(folder, [trial()])
    assert "What the attacker must know" not in page.text


def test_lpips_is_shown_or_said_to_be_missing(folder: Path, trial: MakeTrial) -> None:
    page, _ = read(folder, [trial()])
    assert "was not computed: run the audit with --lpips-weights FILE" in page.text
    scored = trial()
    scored = with_attack(scored, scores={**scored.scores, "lpips": [0.25] * 8})
    page, _ = read(folder, [scored, trial(obfuscation="fp16")])
    assert "not computed" not in page.text
    assert "0.25 [0.25, 0.25]" in page.text


def test_all_measures_stand_in_a_table_with_their_direction_and_the_blind_guess(folder: Path, trial: MakeTrial) -> None:
    plain = trial(pictures=True)
    more = {"lpips": [0.25] * 8, "reid_top1": [1.0] * 6 + [0.0] * 2, "homemade": [3.25] * 8}
    blind = {**plain.blind, "lpips": [0.75] * 8, "reid_top1": [0.0] * 8}
    page, text = read(folder, [with_attack(dataclasses.replace(plain, blind=blind), scores={**plain.scores, **more})])
    assert "LPIPS ↓" in page.text
    assert "Found first ↑" in page.text
    assert "homemade" in page.text
    table = text[text.index("All metrics") :]
    assert "0.250" in table
    assert "0.750" in table[table.index("<tfoot>") :]
    assert "0.75" in table  # the share of six of eight
    page, _ = read(folder, [plain])
    assert "All metrics" not in page.text  # the first table says it all


def test_pictures_stand_worst_first_and_show_their_own_scores(folder: Path, trial: MakeTrial) -> None:
    values = [20.0, 21.0, 30.0, 22.0, 23.0, 24.0, 25.0, 26.0]
    page, _ = read(folder, [trial(psnr=values, pictures=True)])
    alts = [picture["alt"] for picture in wall(page)]
    assert alts[0] == "original 3"
    assert alts[8] == "picture 3 rebuilt through none, 30.0 dB"
    assert alts[15] == "picture 1 rebuilt through none, 20.0 dB"
    tips = [figure["title"] for figure in page.all("figure") if "title" in figure]
    assert tips[0] == "Picture 3, seed 0\nPSNR, dB: 30.0\nSSIM: 0.80"


def test_the_headline_is_one_sentence_and_the_rest_stands_below(folder: Path, trial: MakeTrial) -> None:
    _, text = read(folder, audit(trial))
    assert "<h1>The pictures came back through all 2 obfuscations tested.</h1>" in text
    assert text.index("</h1>") < text.index('<p class="lead"><code>')


def test_a_reader_learns_what_decibels_and_colours_mean(folder: Path, trial: MakeTrial) -> None:
    page, text = read(folder, audit(trial))
    assert "off by 32\N{NO-BREAK SPACE}% of the range" in "".join(page.words)
    assert "a plain grey picture" in page.text.lower()
    for level in Level:
        assert f'<span class="badge {level.name.lower()}">{level.value}</span> {level.short}' in text
    examples = [picture["alt"] for picture in page.all("img") if (picture["alt"] or "").startswith("example")]
    assert len(examples) == 2 * 6
    assert examples[1] == "example: the same, rebuilt, 24.5 dB"
    assert examples[-1] == "example: the same, rebuilt, 28.0 dB"


def test_the_head_says_where_the_pictures_are_from(folder: Path, trial: MakeTrial) -> None:
    page, _ = read(folder, audit(trial))
    assert "Picturesthose built into unveil, which are public" in page.text


def with_controls(made: Trial, **values: list[float]) -> Trial:
    return with_attack(made, controls={name: {"psnr": scores} for name, scores in values.items()})


def test_the_best_control_stands_beside_the_mean(folder: Path, trial: MakeTrial) -> None:
    one = with_controls(trial(), one=[12.0] * 8, other=[13.5] * 8)
    page, text = read(folder, [one])
    table = text[text.index("Best control</th>") :]
    assert '<td class="number">13.5</td>' in table[: table.index("</table>")]
    (row,) = summarise([one])
    assert best_control(row, "psnr") == 13.5
    assert best_control(row, "ssim") is None
    assert "(other, one)" in page.text
    assert "Best control" not in read(folder, [trial()])[0].text


def test_what_a_blind_guess_wins_is_not_shown(folder: Path, trial: MakeTrial) -> None:
    plain = trial()
    scores = {**plain.scores, "reid_top1": [1.0] * 8, "reid_top5": [1.0] * 8}
    blind = {**plain.blind, "reid_top1": [0.0] * 8, "reid_top5": [1.0] * 8}
    page, _ = read(folder, [with_attack(dataclasses.replace(plain, blind=blind), scores=scores)])
    assert "Found first ↑" in page.text
    assert "Found in five ↑" not in page.text
    assert "Not shown, because a blind guess wins: Found in five." in page.text


def test_what_is_true_of_every_row_is_said_once(folder: Path, trial: MakeTrial) -> None:
    trials = [*audit(trial, notes=["Of all."]), trial(obfuscation="bf16", notes=["Of all.", "Of one."])]
    page, _ = read(folder, trials)
    assert page.text.count("Of all.") == 1
    assert page.text.count("Of one.") == 1
    assert page.text.count("One seed only") == 1


def test_what_is_true_of_all_but_the_baseline_is_said_once(folder: Path, trial: MakeTrial) -> None:
    tested = [trial(obfuscation=spec, notes=["Of these."]) for spec in ("fp16", "bf16")]
    page, _ = read(folder, [trial(), *tested])
    assert page.text.count("Of these.") == 1
    assert "Of all but the baseline: Of these." in page.text
    page, _ = read(folder, [trial(), tested[0]])
    assert "Of all but" not in page.text  # of one obfuscation it stands with its verdict
    assert page.text.count("Of these.") == 1


def test_pictures_have_one_size_in_every_band(folder: Path, trial: MakeTrial) -> None:
    _, text = read(folder, [trial(psnr=[20.0 + n for n in range(11)], pictures=True)])
    assert re.findall(r'class="band" style="--n: (\d+)"', text) == ["8", "8"]
