"""What half and double each constant of unveil's own attack does, on pictures on which none was chosen.

The constants are the numeric fields of `FactorisationTuning`, `SearchTuning` and `ConsistencyTuning`, which were chosen
on the published batch: 16 pictures of ImageNet at 128 px. Here every field is halved and doubled on its own, all
numbers of a tuple together, a whole number rounded; a value that the class refuses is left out, and the table says why.
Each run is compared with the baseline of its line: the same client, attack and seed, all fields at their defaults.

How many there are was chosen so that all of it costs less than 50 minutes of one core. A case costs 5 to 9 seconds of a
core with 16 pictures of CIFAR-10, 25 to 45 with 4 pictures of Caltech-101 at 128 px and 3 where updates are matched. So
there are four clients with 16 pictures of CIFAR-10, one with 4 of Caltech-101 and three whose updates are matched, each
with pictures of its own and one seed. More seeds of a baseline say how far PSNR differs where no constant does. Of
obfuscations those were taken that leave the pictures well above a blind guess. Not run on Caltech-101, to save time:
fields that need images of one class, and `unveil+`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import scores_of
from benchmarks.pages import lines
from benchmarks.priors import pictures
from benchmarks.published import QSGD16
from benchmarks.reading import read, tensor
from unveil import attacks, obfuscations
from unveil.attacks import FactorisationTuning, SearchTuning
from unveil.audits.pipeline import Outcome, play
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.reconstruction import Reconstruction
from unveil.enhancers import parse as parse_enhancer
from unveil.enhancers.consistency import ConsistencyTuning, enhance, refuse_seen

Tuning = FactorisationTuning | SearchTuning | ConsistencyTuning

KINDS: dict[str, tuple[type[Tuning], str]] = {
    "FactorisationTuning": (FactorisationTuning, "factorisation"),
    "SearchTuning": (SearchTuning, "search"),
    "ConsistencyTuning": (ConsistencyTuning, ""),
}
"""Name of a class of constants -> the class, and the attack's setting that holds it; none for the projection's."""

FIELDS = tuple(f"{name}.{item.name}" for name, (kind, _) in KINDS.items() for item in fields(kind))
"""Every field, as `class.field`. All of them are numbers or tuples of numbers."""

FACTORS = (0.5, 2.0)

SAME_CLASS = tuple(
    f"FactorisationTuning.{name}" for name in ("pattern_tries", "pattern_rounds", "fewest_open", "same_pattern")
)
"""Fields that act where a class has several images."""

RESTORED = ("SearchTuning.restored_learning_rate", "SearchTuning.restored_feature_floor")
MATCHED = ("SearchTuning.matched_learning_rate", "SearchTuning.matched_divisor")
LONG = ("SearchTuning.settled",)
"""Fields that act in stages of more than 25 steps alone: by default where updates are matched, in 100 steps."""

SEVERAL = ("SearchTuning.start_divisor",)
PROJECTED = ("SearchTuning.least_error", *(name for name in FIELDS if name.startswith("ConsistencyTuning")))
"""Fields that act on enhanced pictures alone."""

MANY_STARTS = "unveil:starts=3"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One client and who attacks it.

    Args:
        source: `cifar`, 16 pictures of 32 px, or `caltech`, 4 pictures of 128 px with a class each.
        part: Which pictures of the source.
        model: `lenet`, or `narrow`, whose last layer has fewer outputs than there are pictures.
        obfuscation: SPEC of the obfuscation.
        attack: SPEC of the attack.
        enhancer: The shipped enhancer behind it, or `none`.
    """

    source: str
    part: int
    model: str = "lenet"
    obfuscation: str
    attack: str = "unveil"
    enhancer: str = "none"

    @property
    def client(self) -> tuple[str, int, str, str]:
        """What is the same whoever attacks."""
        return self.source, self.part, self.model, self.obfuscation

    @property
    def seeds(self) -> Sequence[int]:
        """More seeds of the baseline, where a run is cheap enough."""
        if self.enhancer != "none" or self.attack == "unveil+":
            return ()
        return (1,) if self.source == "caltech" else (1, 2)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are changed on this line, each on one line of a client at most."""
        if self.enhancer != "none":
            return PROJECTED
        if self.attack == "unveil+":
            return RESTORED
        if self.model == "narrow":
            return SEVERAL if self.attack == MANY_STARTS else (*MATCHED, *LONG)
        elsewhere = {*RESTORED, *MATCHED, *SEVERAL, *PROJECTED, *(SAME_CLASS if self.source == "caltech" else ())}
        return tuple(name for name in FIELDS if name not in elsewhere)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Args:
        line: The client and who attacks it.
        field: The field that is changed, as `class.field`; empty for the baseline.
        factor: By what it is multiplied.
        seed: Of the trial.
    """

    line: Line
    field: str = ""
    factor: float = 1.0
    seed: int = 0

    def __str__(self) -> str:
        changed = f"{self.field} x {self.factor:g}" if self.field else "baseline"
        return "; ".join(map(str, (*astuple(self.line), changed, self.seed)))


def separated(**settings: Any) -> tuple[Line, ...]:
    """The lines of a client whose batch is separated."""
    restored = (Line(**settings, attack="unveil+"),) if settings["source"] == "cifar" else ()
    return Line(**settings), Line(**settings, enhancer="faithful"), *restored


def matched(**settings: Any) -> tuple[Line, ...]:
    """The lines of a client whose batch cannot be separated."""
    return Line(**settings, model="narrow"), Line(**settings, model="narrow", attack=MANY_STARTS)


LINES: Sequence[Line] = (
    *separated(source="cifar", part=0, obfuscation=QSGD16),
    *(line for part in range(3) for line in matched(source="cifar", part=part, obfuscation="none")),
    *separated(source="caltech", part=0, obfuscation="gaussian:relative=2.5"),
    *separated(source="cifar", part=1, obfuscation="gaussian:relative=0.5"),
    *separated(source="cifar", part=2, obfuscation="none"),
    *separated(source="cifar", part=3, obfuscation=QSGD16),
)


def scaled(field: str, factor: float) -> Tuning | str:
    """The constants with one of them multiplied by a factor, or the range that its class expects of it.

    A whole number is rounded; where the class refuses it, it is the nearest one towards the default that it takes.
    """
    name, _, item = field.partition(".")
    kind, _ = KINDS[name]
    default = getattr(kind(), item)
    if isinstance(default, tuple):
        tried: Sequence[Any] = [tuple(value * factor for value in default)]
    elif isinstance(default, int):
        rounded = math.floor(default * factor + 0.5)
        tried = range(rounded, default, 1 if rounded < default else -1)
    else:
        tried = [default * factor]
    reason = "it is its own half"
    for value in tried:
        try:
            return kind(**{item: value})
        except UsageError as error:
            reason = str(error).partition(": expected ")[2].partition(", got ")[0]
    return reason


@cache
def cases() -> Sequence[Case]:
    """Client by client, so that those that are done are whole when a run is stopped."""
    return [
        case
        for line in LINES
        for case in (
            Case(line=line),
            *(Case(line=line, seed=seed) for seed in line.seeds),
            *(
                Case(line=line, field=field, factor=factor)
                for field in line.fields
                for factor in FACTORS
                if not isinstance(scaled(field, factor), str)
            ),
        )
    ]


def narrow(classes: int) -> nn.Module:
    """Two convolutions of stride 2 and one Linear layer, for pictures of 32 px; weights from seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 8 * 8, classes),
        ).eval()


@cache
def batch_of(source: str, part: int, data: Path) -> tuple[Batch, int]:
    """The pictures of a part, none of which an enhancer was trained on, and the number of classes."""
    if source == "cifar":
        found, labels, names, _ = read(data, "cifar10_test4k.npz")
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
        rows = order[16 * part : 16 * (part + 1)].tolist()
        return Batch(tensor([found[row] for row in rows], 32), torch.from_numpy(labels)[rows]), len(names)
    test = pictures("Caltech test", data)
    first: dict[int, int] = {}
    for row, label in enumerate(test.labels.tolist()):
        first.setdefault(label, row)
    rows = list(first.values())[4 * part : 4 * (part + 1)]
    return Batch(test.images[rows].clone(), test.labels[rows]), len(first)


@lru_cache(maxsize=2)
def client_of(line: Line, data: Path) -> Client:
    """The client of a line; weights are drawn from seed 0."""
    batch, classes = batch_of(line.source, line.part, data)
    shape = (batch.images.shape[1], batch.images.shape[2], batch.images.shape[3])
    return Client(
        narrow(classes) if line.model == "narrow" else build_model("lenet", image_shape=shape, classes=classes, seed=0),
        batch.images,
        batch.labels,
        classes=classes,
        name=line.source,
        model_name=line.model,
        source=line.source,
    )


@lru_cache(maxsize=4)
def usual_attack(line: Line, seed: int, data: Path) -> Outcome:
    """The attack with all constants at their defaults; kept, because enhanced pictures begin with it."""
    return play(client_of(line, data), obfuscations.parse(line.obfuscation), attacks.parse(line.attack), seed=seed)


@lru_cache(maxsize=4)
def usual(line: Line, seed: int, data: Path) -> Reconstruction:
    """The baseline of a line; kept, because every case is compared with it."""
    outcome = usual_attack(replace(line, enhancer="none"), seed, data)
    return (
        outcome.attack
        if line.enhancer == "none"
        else enhanced(line, outcome, outcome.attack, ConsistencyTuning(), data)
    )


def enhanced(
    line: Line, outcome: Outcome, guess: Reconstruction, tuning: ConsistencyTuning, data: Path
) -> Reconstruction:
    """The attack's pictures behind the line's enhancer."""
    client, enhancer = client_of(replace(line, enhancer="none"), data), parse_enhancer(line.enhancer)
    assert enhancer is not None
    refuse_seen(enhancer, client.images)
    return enhance(
        enhancer,
        guess,
        model=client.model,
        update=outcome.received,
        knowledge=outcome.knowledge,
        class_names=client.class_names,
        tuning=tuning,
    )[0]


def run(case: Case, places: Places) -> Result:
    """PSNR of the last pictures, in dB, and whether they are the baseline's, bit for bit."""
    line, data = case.line, places.data
    bare = replace(line, enhancer="none")
    client, found = client_of(bare, data), usual(line, case.seed, data)
    before = found
    if case.field:
        tuning = scaled(case.field, case.factor)
        assert not isinstance(tuning, str)
        if isinstance(tuning, ConsistencyTuning):
            outcome = usual_attack(bare, case.seed, data)
            found = enhanced(line, outcome, outcome.attack, tuning, data)
        else:
            setting = KINDS[case.field.partition(".")[0]][1]
            attack: Any = replace(attacks.parse(line.attack), **{setting: tuning})  # type: ignore[type-var]
            outcome = play(client, obfuscations.parse(line.obfuscation), attack, seed=case.seed)
            found = outcome.attack
            if line.enhancer != "none":
                found = enhanced(line, outcome, found, ConsistencyTuning(), data)
    scores = scores_of(client, found, {})
    kept = {name: scores[name] for name in ("psnr", "psnr_min", "psnr_blind", "each")}
    return {**kept, "images": len(client.images), "same": bool(torch.equal(found.images, before.images))}


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here; empty if it can."""
    return places.no_pictures


def letters() -> dict[tuple[str, int, str, str], str]:
    """A letter for each client, in the order in which they are run."""
    clients = list(dict.fromkeys(line.client for line in LINES))
    return {client: chr(ord("A") + number) for number, client in enumerate(clients)}


def whole(results: Results) -> list[Line]:
    """The lines all of whose cases are there."""
    return [line for line in LINES if all(str(case) in results for case in cases() if case.line == line)]


SOURCES = {"cifar": "CIFAR-10, 32 px", "caltech": "Caltech-101, 128 px"}
NETWORKS = {"lenet": "LeNet", "narrow": "two convolutions, one Linear layer"}


@lines
def levels_table(results: Results) -> Iterator[str]:
    """A line for each client and attack: the baseline, what other seeds give, and the blind guess."""
    yield "| client | pictures | network | update sent | attack | PSNR dB | other seeds | blind guess |"
    yield "|---|---|---|---|---|---|---|---|"
    for line in whole(results):
        baseline = results[str(Case(line=line))]
        others = [results[str(case)]["psnr"] for case in cases() if case.line == line and case.seed and not case.field]
        then = "" if line.enhancer == "none" else f", then {line.enhancer}"
        yield (
            f"| {letters()[line.client]} | {baseline['images']} of {SOURCES[line.source]} | {NETWORKS[line.model]} "
            f"| `{line.obfuscation}` | `{line.attack}`{then} | {baseline['psnr']:.2f} "
            f"| {', '.join(f'{value:.2f}' for value in others) or '-'} | {baseline['psnr_blind']:.1f} |"
        )


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a changed field did on one line.

    Args:
        client: The client's letter.
        decibels: PSNR minus the baseline's, mean over the pictures, in dB.
        same: Whether the pictures are the baseline's, bit for bit.
    """

    client: str
    decibels: float
    same: bool


def changes(field: str, factor: float, results: Results) -> list[Change]:
    """What a field did, a value for each whole line on which it was changed."""
    found = []
    for line in whole(results):
        case = Case(line=line, field=field, factor=factor)
        if field in line.fields and str(case) in results:
            after, before = results[str(case)], results[str(Case(line=line))]
            found.append(
                Change(client=letters()[line.client], decibels=after["psnr"] - before["psnr"], same=bool(after["same"]))
            )
    return found


@lines
def table(results: Results) -> Iterator[str]:
    """A line for each field: mean change of PSNR over the clients, and that of the worst client."""
    yield "| field | default | clients | x 0.5, dB | worst client | x 2, dB | worst client |"
    yield "|---|---|---|---|---|---|---|"
    for field in FIELDS:
        name, _, item = field.partition(".")
        default = getattr(KINDS[name][0](), item)
        shown = ", ".join(f"{value:g}" for value in (default if isinstance(default, tuple) else (default,)))
        by_factor = {factor: changes(field, factor, results) for factor in FACTORS}
        run_on = {change.client for found in by_factor.values() for change in found}
        if not run_on:
            continue
        acts = {change.client for found in by_factor.values() for change in found if not change.same}
        where = str(len(run_on)) if acts == run_on else f"{len(run_on)}, acts on {len(acts) or 'none'}"
        cells = [cell for factor in FACTORS for cell in _cells(field, factor, by_factor[factor])]
        yield f"| `{field}` | {shown} | {where} | {' | '.join(cells)} |"


def _cells(field: str, factor: float, found: Sequence[Change]) -> tuple[str, str]:
    """Mean and worst change, or why there is none."""
    refused = scaled(field, factor)
    if isinstance(refused, str):
        return f"refused: {refused}", "-"
    if all(change.same for change in found):
        return "same pictures", "-"
    worst = min(found, key=lambda change: change.decibels)
    return _signed(statistics.mean(change.decibels for change in found)), f"{_signed(worst.decibels)} ({worst.client})"


def _signed(decibels: float) -> str:
    """With two digits and its sign; never minus nothing."""
    return f"{round(decibels, 2) + 0.0:+.2f}"


BENCHMARK = Benchmark(
    name="tuning",
    title="what half and double each constant of the own attack does, on pictures on which none was chosen",
    cases=cases,
    run=run,
    missing=missing,
    minutes=45,
    blocks=(
        Block(page=DOCS / "method.md", marker="tuning-levels", table=levels_table),
        Block(page=DOCS / "method.md", marker="tuning", table=table),
    ),
)
