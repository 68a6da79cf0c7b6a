"""Files of weights for unveil's enhancers `semantic-cifar10` and `semantic-tinyimagenet`, and their cards; no code."""
