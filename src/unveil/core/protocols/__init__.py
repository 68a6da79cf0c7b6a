"""The protocols of local trainings, obfuscations, attacks and enhancers, and what an attacker knows."""

from unveil.core.protocols.attacks import Attack, EstimatesMemory, TakesRoughSteps, UsesLearnedPrior
from unveil.core.protocols.enhancers import Enhancer, TrainedOnPictures
from unveil.core.protocols.knowledge import Knowledge
from unveil.core.protocols.obfuscations import EntryModel, HasEntryModels, MayRescale, Misfit, NeedsClient, Obfuscation
from unveil.core.protocols.trainings import (
    BufferSetting,
    HasOrder,
    LocalTraining,
    MayAddNoise,
    MayBeShortened,
    NamesLoss,
    SendsBuffers,
    Trained,
    loss_of,
)

__all__ = [
    "Attack",
    "BufferSetting",
    "Enhancer",
    "EntryModel",
    "EstimatesMemory",
    "HasEntryModels",
    "HasOrder",
    "Knowledge",
    "LocalTraining",
    "MayAddNoise",
    "MayBeShortened",
    "MayRescale",
    "Misfit",
    "NamesLoss",
    "NeedsClient",
    "Obfuscation",
    "SendsBuffers",
    "TakesRoughSteps",
    "Trained",
    "TrainedOnPictures",
    "UsesLearnedPrior",
    "loss_of",
]
