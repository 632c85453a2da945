"""Functions to minimize: the benchmark, the synthetic prior, shifted collections, and toy losses."""
