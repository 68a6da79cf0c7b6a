import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from heard import heard, interruptible
from unveil import __version__
from unveil.cli import app as cli

AUDIT = """
obfuscations = ["sign"]

[[client]]
name = "client"
size = 16
batch = 2

[[attack]]
name = "rog"
steps = 2
"""
COMMANDS = ("audit", "check", "demo", "fit", "gate", "init", "inspect", "list", "merge", "report")
HEAVY = ("torch", "numpy", "scipy", "skimage", "PIL", "rich", "pydantic", "jinja2", "jaxtyping")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in an empty folder that holds a small audit.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("UNVEIL_DEBUG", raising=False)
    Path("audit.toml").write_text(AUDIT, encoding="utf-8")

    def run(*args: str) -> Answer:
        with pytest.raises(SystemExit) as left:
            cli.main(args)
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Answer(left.value.code, out, err)

    return run


def process(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], capture_output=True, encoding="utf-8", check=False, timeout=100, **options
    )


# What needs a process of its own.


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, unveil.cli.app; sys.exit(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    answer = process("-c", code)
    assert answer.stderr == "\n"  # sys.exit prints what was imported


def test_python_m_unveil() -> None:
    answer = process("-m", "unveil", "--help")
    assert answer.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in answer.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    endless = AUDIT.replace('obfuscations = ["sign"]\n', "") + '\n[[attack]]\nname = "rog"\nsteps = 1000000\n'
    (tmp_path / "audit.toml").write_text(endless, encoding="utf-8")
    with interruptible():
        running = subprocess.Popen(
            [sys.executable, "-m", "unveil", "audit", "audit.toml", "--out", "out"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            encoding="utf-8",
        )
    try:
        heard(running, "[1/2] ")
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 130
    kept = "Interrupted: 1 of 2 trials are kept in out; run the same command again to go on, "
    assert err == kept + "or `unveil report out` for a report of them.\n"
    assert (tmp_path / "out" / "results.jsonl").read_bytes().count(b"\n") == 1


# The rest, in this process.


@pytest.mark.slow
def test_a_report_says_that_pictures_are_lost_and_the_audit_makes_them_again(call: Call) -> None:
    # A line a client and a trial, and the memory; built-in pictures need no notice.
    assert call("audit", "audit.toml").err.count("\n") == 4
    next(Path("audits/audit/images").rglob("attack-00.png")).write_bytes(b"")
    answer = call("report", "audits/audit")
    assert answer.code == 0
    assert answer.err == (
        "audits/audit: pictures of 1 of 2 trials are missing or damaged; the same `unveil audit` runs these trials "
        "again\n"
    )
    assert call("audit", "audit.toml").code == 0
    assert call("report", "audits/audit").err == ""


@pytest.mark.slow
def test_private_pictures_are_spoken_of_once(call: Call) -> None:
    for number in range(4):
        Path("pics", f"{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(Path("pics", f"{number % 2}", f"{number}.png"))
    answer = call("audit", "audit.toml", "--set", 'client.0.images="pics"')
    assert answer.err.count("These results hold the private pictures of client.") == 1
    assert Path("audits/audit/report.html").read_text().count("These results hold the private pictures of client.") == 1
    answer = call("audit", "audit.toml", "--set", 'client.0.images="pics"', "--images", "none", "--out", "none")
    assert "private" not in answer.err
    assert not list(Path("none").rglob("*.png"))


def test_version(call: Call) -> None:
    assert __version__ in call("--version").out


@pytest.mark.parametrize("args", [[], ["audti"], ["audit"], ["audit", "audit.toml", "--sed", "1"], ["list", "colours"]])
def test_what_click_refuses(call: Call, args: list[str]) -> None:
    answer = call(*args)
    assert answer.code == 2
    assert "Usage: unveil" in answer.err


def test_audit_prints_a_table_and_writes_a_report(call: Call) -> None:
    answer = call("audit", "audit.toml")
    assert answer.code == 0
    assert "sign" in answer.out
    assert f"Report: {Path('audits/audit/report.html')}" in answer.out
    assert Path("audits/audit/report.html").read_text(encoding="utf-8").startswith("<!")
    known, memory, *lines = answer.err.splitlines()
    assert known.startswith("client client: before the attack the model's loss on the batch is ")
    assert memory.startswith("Memory: about ")
    assert "client client with " in memory
    assert [line[:5] for line in lines] == ["[1/2]", "[2/2]"]
    assert "none" in lines[0]
    assert "sign" in lines[1]


@pytest.mark.slow
def test_audit_as_json_prints_nothing_else(call: Call) -> None:
    answer = call("audit", "audit.toml", "--out", "here", "--json", "--set", "seeds=[3]")
    found = json.loads(answer.out)
    assert answer.code == 0
    assert (found["folder"], found["report"]) == ("here", str(Path("here/report.html")))
    assert [(t["settings"]["obfuscation"], t["seed"]) for t in found["trials"]] == [("none", 3), ("sign", 3)]
    assert found["headline"]
    none, sign = found["rows"]
    assert (none["obfuscation"], sign["obfuscation"]) == ("none", "sign")
    assert sign["verdict"] in ("LEAKS", "PARTLY LEAKS", "NO LEAK FOUND", "INCONCLUSIVE")
    scores = found["trials"][1]["outcomes"]["attack"]["scores"]["psnr"]
    assert sign["metrics"]["psnr"]["mean"] == pytest.approx(sum(scores) / len(scores))
    assert sign["metrics"]["psnr"]["low"] <= sign["metrics"]["psnr"]["mean"] <= sign["metrics"]["psnr"]["high"]


@pytest.mark.slow
def test_an_audit_with_an_enhancer_says_so(call: Call) -> None:
    answer = call("audit", "audit.toml", "--enhancer", "faithful", "--json")
    assert answer.code == 0
    trials = json.loads(answer.out)["trials"]
    assert {trial["settings"]["enhancer"] for trial in trials} == {"faithful"}
    enhancements = [trial["outcomes"]["enhanced"]["enhancement"] for trial in trials]
    assert all(done["misfit_after"] <= done["misfit_before"] for done in enhancements)
    report = Path("audits/audit-faithful/report.html")  # not among the results without it
    assert "the enhancer adds" in report.read_text(encoding="utf-8")


def test_each_enhancer_has_a_folder_of_its_own() -> None:
    from unveil.cli.presenting import results_folder

    def folder(enhancer: Any, variant: str | None = None) -> str:
        return results_folder(Path("here/mine.toml"), variant=variant, enhancer=enhancer).as_posix()

    assert folder(None) == "audits/mine"
    assert folder("faithful", "long") == "audits/mine-long-faithful"
    assert (
        folder("prior.safetensors@0123456789ab") == "audits/mine-prior-0123456789ab"
    )  # the checksum tells files apart
    assert folder("prior.safetensors@ba9876543210") != folder("prior.safetensors@0123456789ab")
    assert folder("lowbits.components:Lighter:by=0.1") == "audits/mine-lowbits.components-Lighter-by=0.1"
    assert folder("lowbits.components:Lighter:by=0.2") != folder("lowbits.components:Lighter:by=0.1")


@pytest.mark.slow
def test_what_was_skipped_in_a_folder_of_pictures_stands_in_the_report(call: Call) -> None:
    for name in ("ant", "bee"):
        Path("pics", name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "red" if name == "ant" else "blue").save(f"pics/{name}/x.png")
    for name in ("Thumbs.db", "ant/._x.png", "bee/notes.txt"):
        Path("pics", name).touch()
    assert call("audit", "audit.toml", "--set", 'client.0.images="pics"', "--set", "controls=[]").code == 0
    said = "3 entries of pics/ were skipped: Thumbs.db and bee/notes.txt are not pictures, ant/._x.png is hidden."
    assert said in Path("audits/audit/report.html").read_text(encoding="utf-8")


def test_a_fit_that_is_terminated_is_an_interrupted_one(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unveil.fitting.fit.fit", lambda *args: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    answer = call("fit", "pictures")
    assert answer.code == 130
    assert "run the same command again to go on" in answer.err
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_fit_says_how_to_go_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unveil.fitting.fit.fit", stopped)
    answer = call("fit", "pictures")
    assert answer.code == 130
    assert "run the same command again to go on" in answer.err


@pytest.mark.slow
def test_an_interrupted_audit_goes_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import unveil.audits.audit

    run_trial, calls = unveil.audits.audit.run_trial, []

    def interrupted(*args: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_trial(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(unveil.audits.audit, "run_trial", interrupted)
        answer = call("audit", "audit.toml", "--out", "out")
    assert answer.code == 130
    assert "Interrupted: 1 of 2 trials are kept in out" in answer.err
    assert "or `unveil report out` for a report of them." in answer.err
    first = Path("out/results.jsonl").read_bytes()

    answer = call("audit", "audit.toml", "--out", "out")
    assert answer.code == 0
    assert [line[:5] for line in answer.err.splitlines() if line.startswith("[")] == ["[2/2]"]
    assert Path("out/results.jsonl").read_bytes().startswith(first)

    answer = call("audit", "audit.toml", "--out", "out")
    assert answer.code == 0
    assert "[" not in answer.err


@pytest.mark.slow
def test_a_last_line_cut_short_is_run_again(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    call("audit", "audit.toml", "--out", "out")
    results = Path("out/results.jsonl")
    results.write_bytes(results.read_bytes()[:-100])
    answer = call("audit", "audit.toml", "--out", "out")
    assert answer.code == 0
    assert "cut short" in answer.err + caplog.text
    assert [line[:5] for line in answer.err.splitlines() if line.startswith("[")] == ["[2/2]"]


def test_interrupted_before_anything(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import unveil.audits.running
    import unveil.cli.listing

    def interrupted(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(unveil.audits.running, "prepare", interrupted)
    answer = call("audit", "audit.toml", "--out", "out")
    assert answer.code == 130
    assert "0 of 2 trials" in answer.err

    monkeypatch.setattr(unveil.cli.listing, "entries", interrupted)
    answer = call("list")
    assert answer.code == 130
    assert answer.err.strip() == "Interrupted."


def pictures(*, corrupt: bool = False) -> None:
    for label, colour in enumerate(("red", "blue")):
        Path("photos", colour).mkdir(parents=True)
        Image.new("RGB", (20, 20), colour).save(Path("photos", colour, f"{label}.png"))
    if corrupt:
        Path("photos/red/0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Path("labels.csv").write_text("file,label\nred/0.png,0\nblue/1.png,7\n", encoding="utf-8")


def models() -> None:
    Path("victims_of_test_cli.py").write_text(
        "import torch\n"
        "from torch.nn import Flatten, Linear, Module, Sequential\n"
        "class Silent(Module):\n"
        "    def __init__(self, factor):\n"
        "        super().__init__()\n"
        "        self.head, self.factor = Linear(3 * 16 * 16, 20), factor\n"
        "    def forward(self, x):\n"
        "        return self.head(x.flatten(1)) * self.factor\n"
        "def narrow(): return Sequential(Flatten(), Linear(3 * 16 * 16, 2))\n"
        "def zeros(): return Silent(0.0)\n"
        "def nans(): return Silent(float('nan'))\n",
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("client.0.btach=2", "unknown key 'btach' in client.0; did you mean 'batch'?"),
        ("client.0.images=empty", "no pictures in 'empty'"),
        ("client.0.images=absent", "'absent' is not a folder"),
        ("client.0.images=photos", "cannot be read"),
        ("client.0.batch=15", "a batch of 15 is larger than 'builtin'"),
        ("client.0.model=victims_of_test_cli:narrow", "does not fit the labels"),
        ("client.0.model=victims_of_test_cli:absent", "has no factory 'absent'"),
        ("client.0.model=victims_of_test_cli:nans", "its logits hold NaN or infinite values"),
        ("client.0.model=victims_of_test_cli:zeros", "the update is all zeros"),
        ('obfuscations=["topk:density=0"]', "density"),
        ('obfuscations=["tpok:density=0.1"]', "did you mean 'topk'?"),
        ("attack.0.steps=0", "expected steps >= 1, got 0"),
        ("seeds", "expected KEY=VALUE"),
        ("enhancer=faithfull", "unknown enhancer 'faithfull'; did you mean 'faithful'?"),
    ],
)
def test_bad_input_is_one_sentence(call: Call, setting: str, message: str) -> None:
    Path("empty").mkdir()
    pictures(corrupt=True)
    models()
    answer = call("audit", "audit.toml", "--set", setting)
    assert answer.code == 2
    assert answer.err.startswith("Error: ")
    assert answer.err.count("\n") == 1
    assert message in answer.err


def test_a_label_out_of_range(call: Call) -> None:
    pictures()
    extra = ("client.0.images=photos", "client.0.labels_csv=labels.csv", "client.0.classes=5")
    answer = call("audit", "audit.toml", *(part for text in extra for part in ("--set", text)))
    assert answer.code == 2
    assert "label 7" in answer.err
    assert "out of range" in answer.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["audit", "absent.toml"], "absent.toml does not exist"),
        (["audit", "audit.toml", "--out", "audit.toml/out"], "cannot write to audit.toml/out"),
        (["audit", "audit.toml", "--device", "gpu"], "--device gpu cannot be used"),
        (["audit", "audit.toml", "--enhancer", "absent"], "--enhancer absent: unknown enhancer"),
        (["audit", "audit.toml", "--enhancer", "audit.toml"], "--enhancer audit.toml:"),
        (["fit", "absent.npz"], "absent.npz does not exist"),
        (["fit", "absent.npz", "--setting", "semantic"], "--lpips-weights"),
        (["fit", "absent.npz", "--clients", "1"], "at least 2 clients"),
        (["report", "absent"], "absent holds no results"),
        (["init"], "audit.toml exists and is left as it is"),
        (["init", "absent/audit.toml"], "cannot write absent/audit.toml: No such file or directory"),
    ],
)
def test_files_and_folders_that_do_not_serve(call: Call, args: list[str], message: str) -> None:
    answer = call(*args)
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith("Error: ")
    assert message in answer.err
    assert Path("audit.toml").read_text(encoding="utf-8") == AUDIT


@pytest.mark.slow
def test_a_folder_of_other_settings_is_refused(call: Call) -> None:
    assert call("audit", "audit.toml", "--out", "out").code == 0
    before = Path("out/results.jsonl").read_bytes()
    answer = call("audit", "audit.toml", "--out", "out", "--set", "client.0.training=fedsgd:mode=train")
    assert answer.code == 2
    assert "clients.client.training was fedsgd, now it is fedsgd:mode=train" in answer.err
    assert "--out" in answer.err
    assert Path("out/results.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_part_of_a_folder_is_reported_and_the_rest_is_named(call: Call) -> None:
    call("audit", "audit.toml", "--out", "out")
    answer = call("audit", "audit.toml", "--out", "out", "--set", "obfuscations=['none']")
    assert answer.code == 0
    assert answer.err.endswith("out also holds 1 trial of other settings; `unveil report out` reports all of them.\n")
    assert "<code>sign</code>" not in Path("out/report.html").read_text(encoding="utf-8")
    assert "\nsign " in call("report", "out").out


@pytest.mark.slow
def test_report_is_written_anew(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["unveil", "audit", "audit.toml", "--out", "out"])
    call("audit", "audit.toml", "--out", "out", "--author", "Ada")
    before = Path("out/report.html").read_text(encoding="utf-8")
    Path("out/report.html").unlink()
    monkeypatch.setattr(sys, "argv", ["unveil", "report", "out"])
    answer = call("report", "out")
    assert answer.code == 0
    assert "sign" in answer.out
    after = Path("out/report.html").read_text(encoding="utf-8")
    for page in (before, after):
        assert "<code>unveil audit audit.toml --out out</code>" in page
        assert "<dd>Ada</dd>" in page


@pytest.mark.parametrize("name", ["x" * 5000, "d/" * 3000, "\udcff", "a\nb", "audit.toml"])
def test_names_that_no_results_folder_has(call: Call, name: str) -> None:
    answer = call("report", name)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 600


NASTY = "a\nb\x1b[31m\u202ec"


@pytest.mark.parametrize(
    "args",
    [
        ["audit", NASTY],
        ["audit", "audit.toml", "--enhancer", NASTY],
        ["audit", "audit.toml", "--set", f"client.0.images={NASTY}"],
        ["audit", "audit.toml", "--set", f"metrics.classifier=cifar10:{NASTY}"],
        ["audit", "audit.toml", "--variant", NASTY],
        ["init", f"no/{NASTY}"],
        ["fit", NASTY],
    ],
)
def test_no_name_reaches_the_terminal_as_more_than_text(call: Call, args: list[str]) -> None:
    answer = call(*args)
    assert answer.code == 2
    assert answer.err.endswith("\n")
    *known, error = answer.err[:-1].split("\n")
    assert len(known) <= 2  # where only the run fails, what is known of the client and the memory stands before
    assert error.isprintable()


def test_report_of_nothing(call: Call) -> None:
    Path("out").mkdir()
    Path("out/audit.json").write_text("{}", encoding="utf-8")
    answer = call("report", "out")
    assert answer.code == 5
    assert "Nothing was audited" in answer.err


def test_report_of_results_that_were_tampered_with(call: Call) -> None:
    Path("out").mkdir()
    Path("out/results.jsonl").write_text("{}\n", encoding="utf-8")
    answer = call("report", "out")
    assert answer.code == 2
    assert "results.jsonl, line 1: settings" in answer.err


@pytest.mark.slow
def test_init_writes_an_audit_that_runs(call: Call) -> None:
    answer = call("init", "mine.toml")
    assert answer.code == 0
    assert "unveil audit mine.toml" in answer.out
    answer = call("audit", "mine.toml", "--set", "attack.0.steps=1")
    assert answer.code == 0
    assert answer.err.count("[") == 4


def test_demo(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import unveil.cli.demo

    for name, value in {"SIZE": 16, "PICTURES": 2, "ATTACK": "rog:steps=1"}.items():
        monkeypatch.setattr(unveil.cli.demo, name, value)
    answer = call("demo")
    assert answer.code == 0
    assert f"Report: {Path('unveil-demo/report.html')}" in answer.out
    assert len(answer.err.splitlines()) == len(unveil.cli.demo.OBFUSCATIONS)


def test_list_shows_every_component_with_its_settings(call: Call) -> None:
    everything = call("list").out
    for kind in cli.KINDS:
        assert f"{kind}:" in everything
    obfuscations = call("list", "obfuscations").out
    assert "attacks:" not in obfuscations
    assert "density=..." in obfuscations
    assert "norm=l2" in obfuscations


def test_list_has_every_metric_and_what_it_needs(call: Call) -> None:
    from unveil.metrics import FACTS

    found = {entry["name"]: entry["summary"] for entry in json.loads(call("list", "metrics", "--json").out)}
    assert list(found) == list(FACTS)
    assert found["psnr"] == "PSNR, dB: pixel error on a logarithmic scale; higher means that more came back."
    assert found["lpips"].endswith("; lower means that more came back; needs lpips_weights in [metrics].")
    assert found["reid_rank"].endswith("; needs decoys in [metrics].")
    assert found["true_class"].endswith("; needs classifier in [metrics].")


def test_list_as_json(call: Call) -> None:
    from unveil.attacks import CATALOGUE

    found = json.loads(call("list", "attacks", "--json").out)
    assert [entry["name"] for entry in found] == list(CATALOGUE)
    rog = next(entry for entry in found if entry["name"] == "rog")
    assert rog["kind"] == "attacks"
    assert rog["settings"]["steps"] == "100"
    assert rog["settings"]["factor"] == "4"
    assert rog["summary"].endswith(".")
    assert all(entry["summary"] != "." for entry in json.loads(call("list", "--json").out))


def broken(*args: Any) -> Any:
    raise RuntimeError("a wheel came off")


def test_an_internal_error_is_three_with_where_to_go(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import unveil.cli.listing

    monkeypatch.setattr(unveil.cli.listing, "entries", broken)
    answer = call("list")
    assert answer.code == 3
    assert "Internal error: RuntimeError: a wheel came off" in answer.err
    assert "unveil --debug" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("by_option", [True, False])
def test_debug_shows_the_traceback(call: Call, monkeypatch: pytest.MonkeyPatch, by_option: bool) -> None:
    import unveil.cli.listing

    monkeypatch.setattr(unveil.cli.listing, "entries", broken)
    if not by_option:
        monkeypatch.setitem(os.environ, "UNVEIL_DEBUG", "1")
    answer = call(*["--debug"] * by_option, "list")
    assert answer.code == 3
    assert "Traceback" in answer.err
    assert "in broken" in answer.err
