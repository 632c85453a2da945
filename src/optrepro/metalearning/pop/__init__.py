"""Meta-training of POP's policy: proximal policy optimization on functions of the prior."""
