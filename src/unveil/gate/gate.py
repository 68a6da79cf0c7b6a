"""From the trials of an audit to the decision of a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unveil.core.errors import UsageError, nearest
from unveil.core.files import quoted
from unveil.core.records import Trial
from unveil.gate.completeness import missing_trials
from unveil.gate.conditions import parse_all
from unveil.gate.decision import Decision
from unveil.gate.earlier import Earlier, compare
from unveil.gate.judging import judge
from unveil.gate.pools import pools
from unveil.metrics import FACTS, remember
from unveil.report import summarise

MOST_MISSING = 3
"""Most missing trials that a sentence names."""


def decide(
    trials: Sequence[Trial],
    settings: Mapping[str, Any],
    fail_on: Sequence[str],
    *,
    chosen: Sequence[str] = (),
    earlier: Earlier | None = None,
) -> Decision:
    """Judge an audit by conditions, and against an earlier audit.

    Args:
        trials: The finished trials.
        settings: What `audit.json` says of the audit.
        fail_on: Conditions such as `reid_top1 > 0.1`, in any number.
        chosen: Obfuscations that are judged, as the report names them; none for all but the baseline.
        earlier: An earlier audit, over which nothing may rise significantly; None for none. Then the metrics of the
            conditions are compared, or without conditions the tested ones.

    Raises:
        UsageError: A condition cannot be read, or the audit has no such obfuscation.
    """
    for trial in (*trials, *(() if earlier is None else earlier.trials)):
        remember(trial.metrics)
    measured = [name for trial in trials for outcome in trial.outcomes.values() for name in outcome.scores]
    conditions = parse_all(fail_on, list(dict.fromkeys([*FACTS, *measured])))
    if not trials:
        return Decision(judgements=(), problems=("Nothing was audited; run `unveil audit` into this folder.",))
    rows = summarise(trials)
    _refuse_unknown(chosen, [row.obfuscation for row in rows], settings)
    found = pools(rows, settings, chosen)
    problems = []
    if missing := missing_trials(settings, trials, chosen):
        named = "; ".join(missing[:MOST_MISSING])
        more = f"; and {len(missing) - MOST_MISSING} more" if len(missing) > MOST_MISSING else ""
        problems.append(
            f"The audit is not finished: {named}{more}. Run the same `unveil audit` again, which goes on where it "
            "stopped."
        )
    if not found:
        problems.append(
            "The folder has no row but the baseline; audit an obfuscation, or judge the baseline itself with "
            "--obfuscation none."
        )
    judgements = [judge(condition, pool) for condition in conditions for pool in found]
    remarks: list[str] = []
    if earlier is not None:
        metrics = list(dict.fromkeys(condition.metric for condition in conditions))
        rises, remarks = compare(found, settings, trials, earlier, metrics=metrics, chosen=chosen)
        judgements += sorted(rises, key=lambda one: one.rule)
        if missing_trials(earlier.settings, earlier.trials, chosen):
            remarks.append(f"{earlier.name} is not finished; what it has is compared.")
        if found and not rises:
            problems.append(
                f"{earlier.name} has nothing to compare with: no row of the same client, training, obfuscation and "
                "attack, or no metric in common; audit the same there, or leave --baseline out."
            )
    return Decision(judgements=tuple(judgements), problems=tuple(problems), remarks=tuple(remarks))


def _refuse_unknown(chosen: Sequence[str], known: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Raise a `UsageError` for an obfuscation that the audit neither has nor asks for."""
    asked = settings.get("obfuscations")
    there = [*known, *(map(str, asked) if isinstance(asked, list) else ())]
    for name in chosen:
        if name not in there:
            hint = nearest(name[:60], list(dict.fromkeys(there)))
            raise UsageError(f"--obfuscation {quoted(name)}: the audit has no such row; {hint}")
