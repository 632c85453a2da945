"""Functions to minimize: the benchmark, the synthetic prior, collections that differ from it, and toy losses."""
