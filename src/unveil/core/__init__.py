"""The ground: the values and protocols that every room speaks in, and how a network is run."""
