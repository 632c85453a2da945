"""Claims and their verdicts: what the papers say, and whether the results bear it out."""
