"""Experiments that minimize many functions side by side."""
