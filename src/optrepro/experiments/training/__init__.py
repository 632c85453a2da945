"""Experiments that train neural networks."""
