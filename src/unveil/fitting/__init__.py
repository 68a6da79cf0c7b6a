"""Training learned priors: pictures, pairs of rough and true ones, losses, the loops, the model card."""
