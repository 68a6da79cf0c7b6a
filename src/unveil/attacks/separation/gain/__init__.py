"""How much longer an update is than the assumed local training makes it."""
