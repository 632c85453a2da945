"""How step rules are learned: guided policy search, imitation, and back-propagation through training."""
