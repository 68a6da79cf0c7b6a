"""Where a network can be cut in two: a body that makes features, a head that turns them into logits."""
