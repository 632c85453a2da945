"""Exhibits of the benchmark functions."""
