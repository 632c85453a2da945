"""The analysis, which computes tables from tidy results."""
