"""Attacks: they rebuild a batch from the public model, the update and the knowledge, and never see the batch.

To add one: write its class (settings in the constructor, `Attack`'s call) and add it to `presets.CATALOGUE`.
"""

from unveil.attacks.presets import CATALOGUE, parse

__all__ = ["CATALOGUE", "parse"]
