"""The sentence that says whose pictures results hold, once in the report and once on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from unveil.core.records import Trial

PUBLIC = "builtin"
"""The source whose pictures are everybody's: those that come with scikit-image."""


def notice(trials: Sequence[Trial]) -> str:
    """Return a sentence about private pictures; empty if the results hold none.

    Args:
        trials: The trials of a results folder.
    """
    clients = dict.fromkeys(
        trial.settings.get("client", "")
        for trial in trials
        if trial.settings.get("images") != PUBLIC
        and (trial.originals or any(outcome.images for outcome in trial.outcomes.values()))
    )
    if not clients:
        return ""
    whose = f"the private pictures of {next(iter(clients))}" if len(clients) == 1 else "the private pictures of clients"
    return f"These results hold {whose}. Keep them, and pass them on, only as you would those pictures themselves."
