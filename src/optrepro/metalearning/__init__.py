"""Meta-training of learned optimizers."""
