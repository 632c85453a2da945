"""Checks of the benchmark functions."""
