"""Advice: which obfuscation meets a target on leakage in a federation, and what it costs in accuracy and bytes."""
