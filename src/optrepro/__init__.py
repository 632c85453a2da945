"""Reproduces papers on learned and self-tuning optimizers, and ships the optimizers."""

__version__ = "0.3.0"
