"""Training learned priors: sources of pictures, pairs of rough and true pictures, losses, training loop, model card."""
