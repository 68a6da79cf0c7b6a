"""Options that several commands have, and options that are the fields of a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click

SEED = click.IntRange(0, 2**63 - 1)  # torch takes no larger one

float32_option = click.option(
    "--float32",
    is_flag=True,
    help="No bfloat16 and no TF32, the same arithmetic everywhere; also UNVEIL_ARITHMETIC=float32.",
)


def field_option(settings: type, name: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return an option for a field of a dataclass, with the field's default; a yes or no is a flag.

    Args:
        settings: The dataclass.
        name: The field; the option is called the same, with dashes.
        attributes: What else `click.option` takes, such as `help`.
    """
    default = next(item.default for item in dataclasses.fields(settings) if item.name == name)
    is_shown = default is not None and not isinstance(default, bool | tuple)
    return click.option(
        f"--{name.replace('_', '-')}",
        default=default,
        show_default=is_shown,
        is_flag=isinstance(default, bool),
        multiple=isinstance(default, tuple),
        **attributes,
    )
