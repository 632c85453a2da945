"""Meta-training of step rules: guided policy search, imitation, and back-propagation through training."""
