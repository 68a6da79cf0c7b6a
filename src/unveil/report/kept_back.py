"""Which layers the leak comes from: what keeping some of them back buys, in a table for each client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unveil.core.records import LayerChoice
from unveil.report.levels import Level
from unveil.report.rows import Row
from unveil.report.statistics import Interval, bootstrap_mean
from unveil.report.worst import worst_rows

WORDS = {"all": "everything", "head": "the head", "last": "the last layer", "bias": "the biases"}
"""Words of `LayerChoice.named` that are no names of layers."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One choice of layers.

    Args:
        row: Its row in which most came back, over all attacks.
        layers: The choice itself.
        sent: What the client sends, in words.
        spared: Share of the update's bits that the client does not send, 0 to 1.
        bought: By how much less comes back than of the whole update, in dB of PSNR.
    """

    row: Row
    layers: LayerChoice
    sent: str
    spared: float
    bought: Interval

    @property
    def buys_something(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.bought.is_known and self.bought.low > 0


@dataclass(frozen=True, kw_only=True)
class KeptBack:
    """The choices of layers of one client.

    Args:
        client, training, enhancer, threat_model: As in `Row`.
        whole: The row of the whole update, of the attack to which most came back.
        choices: The choices, first the one that buys most.
    """

    client: str
    training: str
    enhancer: str
    threat_model: str
    whole: Row
    choices: Sequence[Choice]


def kept_back(rows: Sequence[Row]) -> list[KeptBack]:
    """One table for each client, training, enhancer and threat model with two choices of layers or more.

    There is none where no attack finds anything in the whole update: then nothing is left to buy.
    """
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if "psnr" in row.scores and (row.is_baseline or row.layers):
            groups.setdefault((row.client, row.training, row.enhancer, row.threat_model), []).append(row)
    tables = []
    for (client, training, enhancer, threat_model), members in groups.items():
        worst = worst_rows(members)
        whole = next((row for row in worst if row.is_baseline), None)
        if whole is None or whole.verdict.level not in (Level.LEAKS, Level.PARTLY):
            continue
        choices = [choice for row in worst if row.layers and (choice := _choice(row, row.layers, whole)) is not None]
        if len(choices) > 1:
            tables.append(
                KeptBack(
                    client=client,
                    training=training,
                    enhancer=enhancer,
                    threat_model=threat_model,
                    whole=whole,
                    choices=sorted(choices, key=lambda choice: -choice.bought.mean),
                )
            )
    return tables


def _choice(row: Row, layers: LayerChoice, whole: Row) -> Choice | None:
    """What a choice buys, paired by picture; None where no picture was scored in both rows."""
    ours, theirs = _above_nothing(row), _above_nothing(whole)
    differences = [value - ours[position] for position, value in theirs.items() if position in ours]
    if not differences:
        return None
    return Choice(
        row=row,
        layers=layers,
        sent=_words(layers),
        spared=1 - row.wire_bits / row.raw_bits if row.raw_bits else 0.0,
        bought=bootstrap_mean(differences),
    )


def _above_nothing(row: Row) -> dict[int, float]:
    """The PSNR of each picture, or what is reached without the update where that is more: worse does not hide more."""
    score = row.scores["psnr"]
    return {at: max(value, score.null_best.get(at, value)) for at, value in score.by_picture.items()}


def _words(layers: LayerChoice) -> str:
    """What a client sends, in words."""
    return f"{'all but' if layers.kept_back else 'only'} {in_words(layers.named)}"


def in_words(named: Sequence[str]) -> str:
    """Names of layers, as `LayerChoice.named`, in words."""
    return " and ".join(WORDS.get(word, word) for word in named)
