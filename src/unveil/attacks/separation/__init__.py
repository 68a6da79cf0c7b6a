"""unveil's own attack: separate the images of a batch, then rebuild each from its own features."""
