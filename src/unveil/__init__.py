"""Shows what a federated-learning update gives away."""

__version__ = "0.1.0"
