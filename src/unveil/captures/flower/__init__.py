"""Recorders and obfuscations for federations of Flower; see docs/recording.md. Extra `unveil[flower]`."""

from unveil.captures.flower.recording_mod import recording_mod

__all__ = ["recording_mod"]
