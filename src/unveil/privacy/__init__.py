"""Differential privacy: what an update guarantees against every attack, and where it guarantees nothing."""
