"""How the policy of POP is trained: proximal policy optimization on functions of the prior."""
