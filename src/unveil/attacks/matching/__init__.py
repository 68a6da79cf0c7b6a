"""Attacks that search pictures whose simulated update matches the received one."""
