"""Flower's simulation engine as what trains a federation; see docs/advice.md. Extra `unveil[flower]`."""
