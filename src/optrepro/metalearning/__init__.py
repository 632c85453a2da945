"""How learned optimizers come to be."""
