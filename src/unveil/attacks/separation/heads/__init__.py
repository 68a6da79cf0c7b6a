"""Networks cut in two: a body that computes features from pictures, and a head that computes logits from features."""
