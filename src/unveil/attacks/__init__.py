"""Attacks, which rebuild a batch from the public model, the update and the knowledge, and never see the batch.

To add an attack, write its class (settings in the constructor, the call of `Attack`) and add it to `presets.CATALOGUE`.
"""

from unveil.attacks.presets import CATALOGUE, DLG, IDLG, ROG, InvertingGradients, parse
from unveil.attacks.separation.attack import FeatureInversion
from unveil.attacks.separation.tuning import ClosedGatesTuning, FactorisationTuning, SearchTuning
from unveil.attacks.separation.with_restorer import RestoredFeatureInversion

__all__ = [
    "CATALOGUE",
    "DLG",
    "IDLG",
    "ROG",
    "ClosedGatesTuning",
    "FactorisationTuning",
    "FeatureInversion",
    "InvertingGradients",
    "RestoredFeatureInversion",
    "SearchTuning",
    "parse",
]
