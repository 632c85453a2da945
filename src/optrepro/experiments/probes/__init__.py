"""Measurements of gradients and optimizers: autocorrelation, static families and overhead."""
