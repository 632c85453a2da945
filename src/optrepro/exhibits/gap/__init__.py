"""Exhibits of the paper on GAP."""
