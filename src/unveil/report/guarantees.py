"""Differential privacy in a report: what is guaranteed of each row, in plain words, and on which assumptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal

from unveil.core.guarantees import PrivacyStatement
from unveil.core.records import UNKNOWN
from unveil.privacy.gaussian import success_bound
from unveil.report.bounds import Bound, bound_of, strength_of
from unveil.report.formatting import count
from unveil.report.rows import Row

CANDIDATES = (10, 100, 1000)
"""Numbers of pictures among which an attacker is to find the client's."""

UNITS = {"example": "one picture", "client": "one client"}
CHANGES = {"replace": "is replaced", "zero-out": "is left out", "add-remove": "is added or removed"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the report's table.

    Args:
        row: The row.
        statement: One statement about it; None where it has none.
        picks: For each of `CANDIDATES` how often any attacker can find the client's picture at most; empty without a
            bound.
        bound: What theory allows beside what the attack reached; None where that cannot be compared.
    """

    row: Row
    statement: PrivacyStatement | None
    picks: Sequence[str]
    bound: Bound | None


def privacy_lines(rows: Sequence[Row]) -> list[Line]:
    """Return the lines for the rows of one section; none where no row has a statement."""
    if not any(row.privacy for row in rows):
        return []
    return [
        Line(row=row, statement=statement, picks=_picks(row), bound=bound_of(row))
        for row in rows
        for statement in (row.privacy or (None,))
    ]


def stated(lines: Sequence[Line]) -> list[tuple[PrivacyStatement, list[str]]]:
    """Return each guarantee once, with the obfuscations of its rows."""
    found: list[tuple[PrivacyStatement, list[str]]] = []
    for line in lines:
        if line.statement is None or line.statement.epsilon is None:
            continue
        for statement, names in found:
            if statement == line.statement:
                names.append(line.row.obfuscation)
                break
        else:
            found.append((line.statement, [line.row.obfuscation]))
    return found


def common(lines: Sequence[Line]) -> list[str]:
    """Return what every guarantee of a section rests on; with one guarantee, all that it rests on."""
    lists = [statement.assumptions for statement, _ in stated(lines)]
    return [text for text in lists[0] if all(text in other for other in lists)] if lists else []


def sentence(statement: PrivacyStatement | None) -> str:
    """Return a statement in plain words."""
    if statement is None:
        return "No guarantee: nothing is clipped and no noise is added."
    if statement.epsilon is None:
        return f"No guarantee. {statement.reason}{_claimed(statement)}"
    unit, change = UNITS[statement.unit], CHANGES[statement.adjacency]
    updates = count(statement.rounds, "update")
    return (
        f"ε = {epsilon(statement.epsilon)} at δ = {statement.delta:g} for {unit} over {updates}: "
        f"when it {change}, any conclusion becomes at most {_factor(statement.epsilon)} times as likely, "
        f"plus {statement.delta:g}. Computed by {statement.accountant}.{_claimed(statement)}"
    )


def summary(rows: Sequence[Row]) -> str:
    """Return one line on all rows for the terminal; empty where no row has a statement."""
    guaranteed: dict[str, None] = {}
    without: dict[str, None] = {}
    for row in rows:
        for statement in row.privacy:
            if statement.epsilon is None:
                without[_name(row, statement)] = None
                continue
            terms = f"ε {epsilon(statement.epsilon)} at δ {statement.delta:g} for {UNITS[statement.unit]}"
            guaranteed[f"{_name(row, statement)} {terms}"] = None
    said = [*guaranteed, *([f"no guarantee for {', '.join(without)}"] if without else [])]
    return f"Differential privacy: {'; '.join(said)}." if said else ""


def _name(row: Row, statement: PrivacyStatement) -> str:
    """Return what makes a row private, or fails to: its local training, its obfuscation, or both."""
    if row.is_baseline:
        return row.training
    if statement.unit == "client" or "clip=" not in row.training:
        return row.obfuscation
    return row.training if row.obfuscation.startswith(UNKNOWN) else f"{row.training}, then {row.obfuscation}"


def epsilon(value: float) -> str:
    """Return three digits of epsilon, rounded up: it is a bound."""
    rounded = Context(prec=3, rounding=ROUND_CEILING).create_decimal(Decimal(repr(value)))
    return f"{float(rounded):,.0f}" if value >= 1000 else f"{float(rounded):g}"


def _factor(value: float) -> str:
    """Return e^epsilon as text."""
    return epsilon(math.exp(value)) if value < 12 else f"10^{math.ceil(value / math.log(10))}"


def _claimed(statement: PrivacyStatement) -> str:
    """Return what the client's own software claims, beside what holds."""
    if statement.claimed is None:
        return ""
    if statement.epsilon is None:
        return f" The client's software claims ε = {statement.claimed:g}."
    if statement.epsilon <= statement.claimed:
        return f" The client's software claims ε = {statement.claimed:g}, which holds."
    return f" The client's software claims ε = {statement.claimed:g}, but {epsilon(statement.epsilon)} is what holds."


def _picks(row: Row) -> list[str]:
    strength = strength_of(row)
    return [] if strength is None else [share(success_bound(1 / number, strength)) for number in CANDIDATES]


def share(value: float) -> str:
    """Return a probability, rounded up: it is a bound."""
    rounded = math.ceil(value * 1000 - 1e-9) / 1000
    return f"{rounded:.3f}"
