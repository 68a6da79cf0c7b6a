"""Model cards: a page beside an enhancer's weights that says what it was trained on and what it is good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def as_markdown(name: str, card: Mapping[str, Any], *, checksum: str) -> str:
    """Return a card as a page in Markdown.

    Args:
        name: The enhancer's name.
        card: The card that `fit` returns.
        checksum: Checksum of the weights.
    """
    lines = [f"# {name}", "", str(card["purpose"]), ""]
    for title, key in (
        ("Trained on", "data"),
        ("Licence of the data", "licence"),
        ("Pictures", "pictures"),
        ("Pairs", "pairs"),
        ("Steps", "steps"),
        ("Minutes", "minutes"),
        ("Seed", "seed"),
        ("Date", "date"),
        ("Command", "command"),
    ):
        lines.append(f"- {title}: {_said(card[key])}")
    if card.get("begun"):
        lines.append(f"- Begun from weights: `{card['begun']}`")
    lines += [f"- {note}" for note in card.get("notes", ())]
    lines += [f"- Checksum: `{checksum}`", "", f"Figures on {card['judged']}:", ""]
    lines += [f"- {key}: {value}" for key, value in card["figures"].items()]
    lines += ["", "What it was trained against:", ""]
    for recipe in card["recipes"]:
        lines += [*(f"- {key}: {_said(value)}" for key, value in recipe.items()), ""]
    return "\n".join([*lines, str(card["limits"]), ""])


def _said(value: Any) -> str:
    """Return a value as text; a list with each different item once, and how often it occurs."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        counts = dict.fromkeys(map(str, value), 0)
        for item in value:
            counts[str(item)] += 1
        return ", ".join(f"`{item}`" + (f" x {count}" if count > 1 else "") for item, count in counts.items())
    return str(value)
