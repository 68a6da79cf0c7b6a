"""One word for each thing: the glossary names what exists, and no file uses a word that it retired."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path

import pytest

from unveil.attacks.labels import likelihood
from unveil.audits import audit, running
from unveil.audits.threat_model import ThreatModel
from unveil.audits.trial import LABEL_ALONE, LABEL_MATCHED, settings_of
from unveil.cli.schema import RENAMED as OLD_KEYS
from unveil.cli.schema import AuditTable
from unveil.core import metric, protocols, reconstruction, records, update
from unveil.fitting import recipes

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
CHANGES = ROOT / "CHANGELOG.md"
SCANNED = (
    *("README.md", "CONTRIBUTING.md", "src/**/*.py", "src/**/*.pyi", "src/**/*.toml", "src/**/*.j2", "docs/*.md"),
    *("docs/*.py", "benchmarks/*.py", "tests/**/*.py", "examples/*", "studies/*.toml"),
)
EXEMPT = {GLOSSARY, Path(__file__).resolve()}


def table(page: Path, section: str) -> list[list[str]]:
    """The cells of the one table of a section; a bar inside backticks does not part cells."""
    text = page.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.findall(r"\|((?:`[^`]*`|[^`|])*)(?=\|)", row)] for row in rows]


@dataclass(frozen=True)
class Retired:
    """A word that is not used any more.

    Args:
        word: The word, and in which sense.
        instead: What to say.
        pattern: Finds it in a line.
        allowed: Finds what excuses a line; None if nothing does.
    """

    word: str
    instead: str
    pattern: re.Pattern[str]
    allowed: re.Pattern[str] | None

    def is_in(self, line: str) -> bool:
        return bool(self.pattern.search(line)) and not (self.allowed and self.allowed.search(line))

    def may_be_in(self, text: str) -> bool:
        """Whether the pattern without its boundaries of words, which is ten times faster, is in a whole text."""
        return bool(re.search(self.pattern.pattern.replace(r"\b", ""), text))


def retired() -> list[Retired]:
    return [
        Retired(word, instead, re.compile(pattern.strip("`")), re.compile(allowed.strip("`")) if allowed else None)
        for word, instead, pattern, allowed in table(GLOSSARY, "Retired words")
    ]


def hits(text: str, words: list[Retired]) -> Iterator[str]:
    """`LINE: what to say instead` for every line that uses a retired word."""
    words = [word for word in words if word.may_be_in(text)]
    for number, line in enumerate(text.splitlines(), start=1):
        for word in words:
            if word.is_in(line):
                yield f"{number}: {word.word!r} is retired, say {word.instead!r}: {line.strip()}"


def names(section: str) -> list[str]:
    return list(dict.fromkeys(name for row in table(GLOSSARY, section) for name in re.findall(r"`([^`]+)`", row[2])))


def resolved(name: str) -> object:
    """The module, or the attribute of a module, that a dotted name below `unveil` stands for."""
    try:
        return import_module(f"unveil.{name}")
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(import_module(f"unveil.{module}"), attribute)


def test_no_file_uses_a_retired_word() -> None:
    words = retired()
    files = sorted({path for pattern in SCANNED for path in ROOT.glob(pattern) if path.is_file()} - EXEMPT)
    assert len(files) > 250
    found = [f"{p.relative_to(ROOT)}:{hit}" for p in files for hit in hits(p.read_text(encoding="utf-8"), words)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("sends it through the channel", "obfuscation"),
        ("one measure against one control", "metric"),
        ("a scene of four pictures", "client"),
        ("the un-obfuscated control", "baseline"),
        ("Leakage above the prior", "above the controls"),
        ("for told in (1, 2): told[0]", "the thing's name"),
        ("once in so many pictures", "the number's name"),
    ],
)
def test_a_retired_word_is_found_and_its_line_and_successor_are_named(line: str, instead: str) -> None:
    (hit,) = hits(f"nothing here\n{line}\n", retired())
    assert hit.startswith("2: ")
    assert f"say {instead!r}" in hit


@pytest.mark.parametrize(
    "line", ["8 bits a channel", "n x channels x height x width", "what it measures", "it was told", "so that many"]
)
def test_a_word_in_another_sense_is_left_alone(line: str) -> None:
    assert list(hits(line, retired())) == []


def test_every_retired_word_says_what_to_say_and_does_not_retire_its_own_successor() -> None:
    words = retired()
    assert len(words) > 20
    for word in words:
        assert word.instead
        assert not any(other.is_in(word.instead) for other in words), word.word


@pytest.mark.parametrize("name", [*names("Terms"), *names("Symbols")])
def test_every_name_of_the_glossary_is_in_the_code(name: str) -> None:
    assert resolved(name) is not None


def test_a_name_that_is_not_in_the_code_is_noticed() -> None:
    with pytest.raises(AttributeError):
        resolved("core.types.Scene")


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"])
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    made_up = {"src/unveil/obfuscations/threshold.py"}  # CONTRIBUTING has the reader write it
    for name in set(re.findall(r"`([a-z_/0-9]+\.py)`", text)) - made_up:
        assert any(ROOT.glob(name)) or any((ROOT / "src" / "unveil").rglob(name)), f"{page.name} names {name}"


RENAMED = table(CHANGES, "[Unreleased]")
IN_CODE = {"package", "module", "class", "function", "constant"}


def after(kind: str) -> list[str]:
    return [name for row in RENAMED if row[0] == kind for name in re.findall(r"`([^`]+)`", row[2])]


@pytest.mark.parametrize("name", [name for kind in sorted(IN_CODE) for name in after(kind)])
def test_every_new_name_of_the_changelog_is_in_the_code(name: str) -> None:
    assert resolved(name) is not None


@pytest.mark.parametrize("name", after("field"))
def test_every_new_field_of_the_changelog_is_in_its_class(name: str) -> None:
    owner, _, member = name.partition(".")
    homes = (records, metric, reconstruction, update, protocols, audit, running, likelihood, recipes)
    cls = next(getattr(home, owner) for home in homes if hasattr(home, owner))
    assert member in getattr(cls, "__dataclass_fields__", {}) or hasattr(cls, member)


def test_the_new_words_of_the_changelog_are_those_that_the_program_takes() -> None:
    assert set(after("audit file")) <= {item.name for item in fields(AuditTable)}
    assert [row[1].strip("`") for row in RENAMED if row[0] == "audit file"] == list(OLD_KEYS)
    assert all(str(ThreatModel.parse(words)) == words for words in after("threat model"))
    assert after("control") == [LABEL_ALONE, LABEL_MATCHED]
    assert set(after("setting of a trial")) <= set(inspect.getsource(settings_of).split('"'))
    assert {row[0] for row in RENAMED} == IN_CODE | {
        "field",
        "audit file",
        "threat model",
        "control",
        "setting of a trial",
    }
