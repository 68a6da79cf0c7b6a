"""Trials: one run of the whole line, a whole audit of them, and the folder that keeps their results."""
