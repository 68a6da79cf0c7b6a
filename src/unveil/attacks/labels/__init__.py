"""Labels of a batch, told from its update."""
