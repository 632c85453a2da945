"""Experiments that train optimizers."""
