"""Label inference: how often each class occurs in a batch, computed from the update."""
