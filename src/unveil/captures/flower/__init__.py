"""Recorders and obfuscations for federations of Flower; see docs/recording.md. Extra `unveil[flower]`."""

from unveil.captures.flower.driver import drive
from unveil.captures.flower.obfuscation import obfuscation_mod
from unveil.captures.flower.recognition import recognised
from unveil.captures.flower.recording import recording_mod
from unveil.captures.flower.strategy import recording_strategy

__all__ = ["drive", "obfuscation_mod", "recognised", "recording_mod", "recording_strategy"]
