"""Options that several commands have."""

import click

SEED = click.IntRange(0, 2**63 - 1)  # torch takes no larger one

float32_option = click.option(
    "--float32", is_flag=True, help="No bfloat16, the same arithmetic everywhere; also UNVEIL_ARITHMETIC=float32."
)
