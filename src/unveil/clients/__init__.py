"""Clients: models, pictures and local training."""
